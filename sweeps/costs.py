"""The GPU-hours of each study at each scale, as a Markdown table.

python sweeps/costs.py      # prints what tests/golden/gpu_hours.md has
"""

from multimae.config import SCALES
from multimae.study import Study, runs_of
from multimae.study.cost import GPU_RATE, gpu_hours, hours_text
from multimae.units import operations
from sweeps.all import study as together

LEAST = 0.001


def table(study: Study = together) -> str:
    """A line for each part of a study, and one for all of them, in which a run that two parts have counts once."""
    parts = [(f"`sweeps/{part.name}.py`", part) for part in study.parts]
    lines = [["GPU-hours", *SCALES], ["---", *["---:"] * len(SCALES)]]
    lines += [[name, *(_cell(part, scale) for scale in SCALES)] for name, part in [*parts, ("all of these", study)]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(study: Study, scale: str) -> str:
    """Without what can be of no use at this scale: weights of another width."""
    runs = {s: run for s, run in runs_of(study.build(scale)).items() if not run.config.lacks_weights(())}
    return hours_text(hours) if (hours := gpu_hours(runs)) >= LEAST else f"< {LEAST}"


if __name__ == "__main__":
    print(f"Training alone, counted, at {operations(GPU_RATE)}/s a GPU:\n\n{table()}", end="")

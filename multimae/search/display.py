"""What is shown of a search: its trials, the best so far, the time that is left."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..record.state import line
from ..study.display import MARKS, Grid, GridColumn
from ..units import counted, duration
from .coordinator import Coordinator, Seen
from .space import RUNGS
from .trials import REASON, SIGNATURE, Trials

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ENDS = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
STYLES = {"done": MARKS["done"], "pruned": ("–", "dim"), "failed": MARKS["failed"]}
ROOM = 12  # lines around the tables of trials on a terminal
LEAST = 5


def figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def settings(trial: "FrozenTrial") -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())


def overview(coordinator: Coordinator, console: Console) -> Group:
    """All searches, as they are now."""
    room = max(LEAST, console.height // len(coordinator.searches) - ROOM) if console.is_terminal else None
    return Group(*(part for trials in coordinator.searches for part in _parts(coordinator, trials, room)))


def _parts(coordinator: Coordinator, trials: Trials, room: int | None) -> "list[Grid | Text]":
    search, everything = trials.search, trials.all()
    running = {seen.trial.number: seen for seen in coordinator.seen(search, trials.of("RUNNING"))}
    shown = everything[-room:] if room else everything
    head = Text.assemble((search.title, "bold"), f" · {search.measure.metric} on {search.judged} · {search.name}")
    parts: list[Grid | Text] = [head, _grid(trials, shown, running)]
    if rest := len(everything) - len(shown):
        parts.insert(1, Text(f"... and {counted(rest, 'earlier trial')}", style="dim"))
    for trial in shown:
        if (reason := trial.user_attrs.get(REASON)) and trial.state.name != "PRUNED":
            parts.append(Text(f"  trial {trial.number}: {line(reason)}", style="dim", no_wrap=bool(room)))
    parts.append(_summary(coordinator, trials, running))
    return parts


def _grid(trials: Trials, shown: "Sequence[FrozenTrial]", running: dict[int, Seen]) -> Grid:
    search, best = trials.search, trials.best
    columns = [GridColumn("trial", right=True), GridColumn("run", 10, dropped=2)]
    columns += [GridColumn(each.name, 9, right=True) for each in search.dimensions]
    columns += [GridColumn("", 12), GridColumn("epoch", 7, right=True, dropped=1)]
    columns += [GridColumn(f"at {rung:.0%}", 7, right=True) for rung in RUNGS if search.pruning]
    columns.append(GridColumn(search.measure.metric, 8, right=True))
    lines = []
    for trial in shown:
        seen = running.get(trial.number)
        what = seen.entry.status.state if seen else ENDS.get(trial.state.name, "")
        mark, style = STYLES.get(what) or MARKS[what]
        beat = seen.entry.status.heartbeat if seen else {}
        epoch = f"{beat['epoch']:.1f}/{beat['epochs']:g}" if beat.get("epoch") is not None else ""
        rungs = [figure(trial.intermediate_values.get(round(100 * rung))) for rung in RUNGS if search.pruning]
        result = figure(trial.value) if trial.state.name == "COMPLETE" else ""
        result += " *" if best and trial.number == best.number else "  "
        state = Text(f"{mark} {what}", style=style)
        values = [f"{trial.params[each.name]:.3g}" for each in search.dimensions]
        run = Text(trial.user_attrs[SIGNATURE], style="dim")
        lines.append((str(trial.number), run, *values, state, epoch, *rungs, result))
    return Grid(columns, lines)


def _summary(coordinator: Coordinator, trials: Trials, running: dict[int, Seen]) -> Text:
    best = trials.best
    ended = trials.of(*ENDS)
    text = Text(f"{len(ended)} of {coordinator.number} trials ended", style="bold")
    if running:
        text.append(f" · {len(running)} under way", style="not bold")
    if best:
        text.append(f" · best so far (*): {figure(best.value)} with {settings(best)}", style="not bold")
    seconds = [t.duration.total_seconds() for t in ended if t.duration]
    if seconds and len(ended) < coordinator.number:
        left = statistics.fmean(seconds) * (coordinator.number - len(ended)) / max(1, coordinator.parallel)
        text.append(f" · about {duration(left)} left", style="not bold")
    return text.append("\n")


@contextmanager
def following(coordinator: Coordinator, console: Console) -> Iterator[Callable[[], None]]:
    """Gives what shows the searches as they are now: on a terminal in one place; elsewhere a line for each change."""
    told: dict[tuple[str, int], str] = {}
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def show() -> None:
        if live:
            live.update(overview(coordinator, console), refresh=True)
            return
        for trials in coordinator.searches:
            several = f"{trials.search.title}: " if len(coordinator.searches) > 1 else ""
            for trial in trials.all():
                key, state = (trials.search.name, trial.number), trial.state.name
                if told.get(key) != state:
                    told[key] = state
                    console.print(f"{several}{_change(trials, trial)}", highlight=False, soft_wrap=True)

    if live:
        with live:
            yield show
    else:
        yield show


def _change(trials: Trials, trial: "FrozenTrial") -> str:
    text = f"trial {trial.number} ({settings(trial)}) {ENDS.get(trial.state.name, 'begins')}"
    if trial.state.name == "COMPLETE":
        text += f": {trials.search.measure.metric} {figure(trial.value)}"
    return text + (f", {line(reason)}" if (reason := trial.user_attrs.get(REASON)) else "")

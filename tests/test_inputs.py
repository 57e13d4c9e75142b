"""A user's mistake ends in a sentence and exit code 2, or it works: never in a traceback, a hang, or a wrong number.

`python tests/test_inputs.py` prints the table: what was given, what was shown, the exit code.
"""

import os
import re
import tempfile
from pathlib import Path

import pytest
from inputs import Case, cases, run


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.given)
def test_a_mistake_is_told_in_a_sentence(case: Case, tmp_path, monkeypatch):
    for variable in ("MULTIMAE_PROFILE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    outcome = run(case, tmp_path)
    assert outcome.code == case.code, outcome.printed
    assert "Traceback" not in outcome.printed
    assert re.search(case.shown, outcome.printed, re.DOTALL), outcome.printed


def table() -> None:
    print("| given | command | shown | exit |\n|---|---|---|---|")
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(case, Path(folder))
            message = outcome.message.replace(f"{os.path.realpath(folder)}/", "").replace("|", "\\|")
            print(f"| {case.given} | `{case.command}` | {message} | {outcome.code} |", flush=True)


if __name__ == "__main__":
    table()

"""Inputs that a user may give by mistake, as data: one module a room, each with a list `CASES`."""

import contextlib
import importlib
import io
import pkgutil
import re
import runpy
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAINS = {"slurm.doctor": "slurm.doctor.command"}  # where a package has its command
SECONDS = 60  # that a command may take before it counts as hung


@dataclass(frozen=True)
class Case:
    given: str  # in words
    command: str  # as one would type it, in a folder of its own
    shown: str = ""  # a regular expression that is found in what is printed
    code: int = 2
    prepare: Callable[[Path], None] = lambda folder: None  # makes what the command reads, in its folder


@dataclass(frozen=True)
class Outcome:
    code: int | str  # the exit code, or the name of an exception that a user would see as a traceback
    printed: str

    @property
    def message(self) -> str:
        """The line that matters."""
        lines = [line.strip() for line in self.printed.splitlines() if line.strip()]
        told = [line for line in lines if re.match(r"(usage: )?(multimae|\w+|doctor|python)[\w. /-]*: ", line)]
        return (told or lines or [""])[-1]


def cases() -> list[Case]:
    modules = [importlib.import_module(f"inputs.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [case for module in modules for case in module.CASES]


def run(case: Case, folder: Path) -> Outcome:
    """Give the command in `folder`, in this process: importing torch for each of them takes too long."""
    case.prepare(folder)
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            with _limit():
                code = _command(shlex.split(case.command))
        except SystemExit as end:  # of argparse
            code = end.code if isinstance(end.code, int) else 1
        except Exception as error:
            traceback.print_exc(file=printed)
            code = type(error).__name__
    return Outcome(code or 0, printed.getvalue())


def _command(words: list[str]) -> int:
    from multimae import cli

    if words[0] == "multimae":
        return cli.main(words[1:])
    if words[0] != "python":
        raise AssertionError(f"expected multimae or python, found {words[0]}")
    if words[1] == "-m":
        return importlib.import_module(MAINS.get(words[2], words[2])).main(words[3:])
    argv, sys.argv = sys.argv, [str(ROOT / words[1]), *words[2:]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = argv
    return 0


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def hung(number, frame):
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

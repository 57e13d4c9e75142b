"""Types of a profile's fields: what SLURM reads, and what may stand in a batch script, which a shell reads."""

import os
import re
import shlex
import subprocess
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from multimae.config.fields import Name, NotNegative, PathTo, Text

# minutes | minutes:seconds | hours:minutes:seconds | days-hours | days-hours:minutes | days-hours:minutes:seconds
CLOCK = "[0-9]{1,7}(?::[0-9]{1,7}){0,2}"
TIME = re.compile(rf"(?:(?P<days>[0-9]{{1,7}})-(?P<after>{CLOCK})|(?P<clock>{CLOCK}))")
LONGEST_DAYS = 1000

# Names, and expressions of features such as [a100|h100].
WORD = re.compile(r"[A-Za-z0-9_][\w.,:+@/-]*", re.ASCII)
EXPRESSION = re.compile(r"[A-Za-z0-9_(\[!][\w.,:+@/&|()*\[\]!=-]*", re.ASCII)
OPTION = re.compile(r"[a-z][a-z0-9]+([-_][a-z0-9]+)*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def minutes_of(text: str) -> float | None:
    """Minutes that one of SLURM's forms of a time limit stands for; None where it is none of them."""
    if not (found := TIME.fullmatch(text)):
        return None
    parts = [int(part) for part in (found["after"] or found["clock"]).split(":")]
    if found["days"]:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return (int(found["days"]) * 24 + hours) * 60 + minutes + seconds / 60
    hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: parts}[len(parts)]
    return hours * 60 + minutes + seconds / 60


def _time_limit(text: str) -> str:
    if not minutes_of(text):
        raise ValueError("expected minutes, hours:minutes:seconds or days-hours, such as 30, 24:00:00 or 7-00")
    if minutes_of(text) > LONGEST_DAYS * 24 * 60:
        raise ValueError(f"expected at most {LONGEST_DAYS} days")
    return text


def as_text(value: Any) -> Any:
    """An account may be a number; of 1.10 nobody knows what was written."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18 else value


def _matching(pattern: re.Pattern, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"expected {what}; it is written into a batch script")
        return text

    return AfterValidator(check)


def _command(text: str) -> str:
    """What stands before the arguments of a job's command, unquoted."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or words[0].startswith("-") or set(text) & set(";&|<>`#\\(){}"):
        raise ValueError("expected one command, without ; & | < > ` # ( ) { } and with its quotes closed")
    if "=" in words[0]:
        raise ValueError("expected a command first; a variable stands in `environment`, or after env: env A=b python")
    return text


def _shell(lines: tuple[str, ...]) -> tuple[str, ...]:
    text = "\n".join(lines)
    if not text.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError("expected printable lines")
    if lines:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        if done.returncode or done.stderr:  # a quote or a here-document left open takes in the rest of the script
            said = (done.stderr.strip() or "nothing").splitlines()[0].removeprefix("bash: ")
            raise ValueError(f"expected shell lines, but bash says: {said}")
        if (len(text) - len(text.rstrip("\\"))) % 2:
            raise ValueError("expected lines that end; the last one goes on, by its \\, in what follows")
        if any(line.lstrip().startswith("#SBATCH") for line in text.splitlines()):
            raise ValueError("expected shell lines; an option of sbatch is a key of the profile, or stands in `sbatch`")
    return lines


def _within_reason(value: float) -> float:
    if 0 < value < 0.01:
        raise ValueError("expected gigabytes: 0 (all of a node's memory) or 0.01 at least")
    return value


def _expanded(value: Any) -> Any:
    """A path with ~ and $VARIABLES filled in."""
    if not isinstance(value, str):
        return value
    text = os.path.expanduser(os.path.expandvars(value))
    if unset := re.search(r"\$\{?(\w+)", text):
        raise ValueError(f"the environment variable {unset[1]} is not set")
    return text


SitePath = Annotated[PathTo, BeforeValidator(_expanded)]
TimeLimit = Annotated[Text, BeforeValidator(as_text), AfterValidator(_time_limit)]
Word = Annotated[Text, BeforeValidator(as_text), _matching(WORD, "a name of letters, digits and _ . , : + @ / -")]
Feature = Annotated[Text, BeforeValidator(as_text), _matching(EXPRESSION, "features, such as a100 or [a100|h100]")]
Variable = Annotated[str, _matching(VARIABLE, "the name of a variable: letters, digits and _")]
NoNul = _matching(re.compile(r"[^\0]*"), "text without the character NUL")
Value = Annotated[str, Field(max_length=30_000), BeforeValidator(as_text), NoNul]
StageName = Annotated[Name, _matching(re.compile(r"\w[\w.-]*"), "a name of letters, digits and _ . -")]
Gigabytes = Annotated[NotNegative, Field(le=100_000), AfterValidator(_within_reason)]
Command = Annotated[Text, AfterValidator(_command)]
ShellLines = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_shell)]

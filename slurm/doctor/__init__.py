"""The doctor: one small job that proves a profile (`python -m slurm.doctor`). Here: a line of what it tells."""

from dataclasses import dataclass

GOOD, NOTE, BAD = "✓", "!", "✗"


@dataclass(frozen=True)
class Check:
    mark: str
    text: str
    fix: str = ""  # the line or command that mends it

    def __str__(self) -> str:
        return f"{self.mark} {self.text}" + (f"\n    {self.fix}" if self.fix else "")


def good(text: str) -> Check:
    return Check(GOOD, text)


def note(text: str, fix: str = "") -> Check:
    return Check(NOTE, text, fix)


def bad(text: str, fix: str) -> Check:
    return Check(BAD, text, fix)

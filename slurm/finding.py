"""One line of what the doctor found. Imports no torch."""

from dataclasses import dataclass

GOOD, NOTE, BAD = "✓", "!", "✗"


@dataclass(frozen=True)
class Finding:
    mark: str
    text: str
    fix: str = ""  # the line or command that mends it

    def __str__(self) -> str:
        return f"{self.mark} {self.text}" + (f"\n    {self.fix}" if self.fix else "")


def good(text: str) -> Finding:
    return Finding(GOOD, text)


def note(text: str, fix: str = "") -> Finding:
    return Finding(NOTE, text, fix)


def bad(text: str, fix: str) -> Finding:
    return Finding(BAD, text, fix)

"""What is wrong with a data set, and what mends it. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

EXAMPLES = 3  # that a finding names


class Level(IntEnum):
    """How bad; the worst first."""

    WRONG = 0  # training would run, and learn or measure something else than is meant
    STOPS = 1  # training would refuse it, at the start or in the middle
    NOTE = 2  # may well be meant

    @property
    def said(self) -> str:
        return ("trains on something else", "stops training", "note")[self]


@dataclass
class Finding:
    level: Level
    place: str  # such as `train/rgb`
    what: str
    mend: str
    of: str = ""  # files, samples, ...: then `what` is said of so many of them
    total: int = 0
    count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        counted = f"{self.count:,} of {self.total:,} {self.of} " if self.of else ""
        return f"{self.place}: {counted}{self.what}"


class Findings:
    """Of one kind at one place there is one, however many files have it."""

    def __init__(self):
        self.found: dict[tuple, Finding] = {}

    def add(
        self, level: Level, place: str, what: str, mend: str, examples: Iterable[object] = (), count: int | None = None
    ) -> Finding:
        """`count`: of what has it, where that is not the number of examples."""
        named = list(map(str, examples))
        finding = self.found.setdefault((level, place, what), Finding(level, place, what, mend))
        finding.count += len(named) if count is None else count
        finding.examples += named[: EXAMPLES - len(finding.examples)]
        return finding

    def among(
        self, level: Level, place: str, total: int, of: str, what: str, mend: str, examples: Iterable[object],
        count: int | None = None,
    ) -> None:  # fmt: skip
        """Of so many of `total` files, samples, ... `what` is said; nothing where it is said of none."""
        examples = list(examples)
        if count or examples:
            finding = self.add(level, place, what, mend, examples, count)
            finding.of, finding.total = of, total

    def sorted(self) -> list[Finding]:
        return sorted(self.found.values(), key=lambda f: (f.level, -f.count / max(f.total, f.count, 1)))

    @property
    def problems(self) -> int:
        return sum(finding.level < Level.NOTE for finding in self.found.values())

    @property
    def notes(self) -> int:
        return len(self.found) - self.problems

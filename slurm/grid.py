"""A table in a terminal or in a pipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

GAP = 2  # columns of a terminal between two of a table


@dataclass(frozen=True)
class Column:
    name: str
    width: int = 0  # at least
    right: bool = False  # justified
    spare: int = 0  # left out of a terminal that is too narrow, the highest number first; 0: never


@dataclass(frozen=True)
class Grid:
    """Drawn by rich on a terminal. Elsewhere aligned text: rich takes more than a second for 600 lines."""

    columns: Sequence[Column]
    rows: Sequence[Sequence]  # of strings and what rich can draw; a pipe has no pictures

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield Segment(self.text())
            return
        shown = self._within(options.max_width)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in (self.columns[i] for i in shown):
            justify = "right" if column.right else "left"
            table.add_column(column.name, justify=justify, min_width=column.width or None, no_wrap=True)
        for row in self.rows:
            table.add_row(*(row[i] for i in shown))
        yield table

    def text(self) -> str:
        widths = self._widths
        justified = (
            [cell.rjust(w) if c.right else cell.ljust(w) for cell, w, c in zip(line, widths, self.columns)]
            for line in self._lines
        )
        return "".join((" " * GAP).join(line).rstrip() + "\n" for line in justified)

    @cached_property
    def _lines(self) -> list[list[str]]:
        return [[column.name for column in self.columns], *([_plain(cell) for cell in row] for row in self.rows)]

    @cached_property
    def _widths(self) -> list[int]:
        return [max(column.width, *map(len, cells)) for column, cells in zip(self.columns, zip(*self._lines))]

    def _within(self, width: int) -> list[int]:
        """Indices of the columns that a terminal has room for."""
        shown = list(range(len(self.columns)))
        for index in sorted((i for i in shown if self.columns[i].spare), key=lambda i: -self.columns[i].spare):
            if sum(self._widths[i] + GAP for i in shown) - GAP <= width:
                break
            shown.remove(index)
        return shown


def _plain(cell: object) -> str:
    return cell if isinstance(cell, str) else cell.plain if isinstance(cell, Text) else ""

"""A table in a terminal or in a pipe."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Column:
    name: str
    width: int = 0  # at least
    right: bool = False  # justified


@dataclass(frozen=True)
class Grid:
    """Drawn by rich on a terminal. Elsewhere aligned text: rich takes more than a second for 600 lines."""

    columns: Sequence[Column]
    rows: Sequence[Sequence]  # of strings and what rich can draw; a pipe has no pictures

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield Segment(self.text())
            return
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in self.columns:
            justify = "right" if column.right else "left"
            table.add_column(column.name, justify=justify, min_width=column.width or None, no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        yield table

    def text(self) -> str:
        lines = [[column.name for column in self.columns], *([_plain(cell) for cell in row] for row in self.rows)]
        widths = [max(column.width, *map(len, cells)) for column, cells in zip(self.columns, zip(*lines))]
        justified = (
            [cell.rjust(w) if c.right else cell.ljust(w) for cell, w, c in zip(line, widths, self.columns)]
            for line in lines
        )
        return "".join("  ".join(line).rstrip() + "\n" for line in justified)


def _plain(cell: object) -> str:
    return cell if isinstance(cell, str) else cell.plain if isinstance(cell, Text) else ""

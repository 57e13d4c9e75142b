"""What the launcher shows: the plan, the status, and live progress (plain lines where there is no terminal)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..record.epochs import bound_by
from ..record.state import Status
from ..redact import HIDDEN
from ..units import duration, operations
from .cost import Estimate
from .lacks import short
from .planning import Entry, Event, Extra, Plan
from .status import read_all

Line = tuple[str, str, Status, str]  # row, stage, what the run does, its signature

MARKS = {
    "done": ("✓", "green"),
    "running": ("●", "cyan"),
    "pending": ("·", "dim"),
    "waiting": ("·", "dim"),
    "missing": ("·", "dim"),
    "interrupted": ("‖", "yellow"),
    "dead": ("✗", "yellow"),
    "failed": ("✗", "red"),
    "refused": ("✗", "red"),
    "blocked": ("–", "red"),
    "unknown": ("?", "magenta"),
}
QUIET = ("pending", "waiting", "missing", "done")  # shown after what moves or went wrong, where room is short

SAID = {"started": "started", "asked": "asked to save and stop"}  # of events that are no change of state
PLANNED = ("row", "stage", "run", "is", "would", "images", "training")
BAR = 12  # columns of a progress bar
GAP = 2  # columns of a terminal between two of a table
FRAME = 6  # lines of a status around its table: title, head, what is left out, counts
LEAST = 3  # lines that a table has on any terminal
ENDED = ("done", "failed", "refused", "blocked")  # without anybody's help
MANY = 20  # different reasons of what only waits


def print_plan(console: Console, plan: Plan, cost: str) -> None:
    """Of --dry-run: what would run, and what it would cost."""
    columns = [GridColumn(name, right=name in ("images", "training")) for name in PLANNED]
    lines: list[tuple[str | Text, ...]] = []
    above = None
    for row, stage, entry, again in _cells(plan):
        images, work = entry.run.config.images(), entry.run.operations
        would = "same run as above" if again else entry.action or ""
        would += ", alone" if entry.run.alone and entry.action and not again else ""
        counts = (f"{images:,}" if images else "?", operations(work) if work else "?")
        lines.append(("" if row == above else row, stage, entry.run.signature, _state(entry.status), would, *counts))
        above = row
    console.print(_head(plan))
    console.print(Grid(columns, lines))
    for reason in _reasons((entry.run.label, entry.status) for entry in plan.entries.values()):
        console.print(reason, style="dim", highlight=False, markup=False, soft_wrap=True)
    console.print(cost, highlight=False, soft_wrap=True)


def print_scripts(console: Console, scripts: Iterable[tuple[str, str]]) -> None:
    """Of --cluster --dry-run: each batch script, as sbatch would get it but for what is hidden in it."""
    concealed = False
    for title, script in scripts:
        console.rule(title, align="left")
        console.out(script, highlight=False)
        concealed |= HIDDEN in script
    if concealed:
        console.print(f"{HIDDEN} stands for values that may be secret; sbatch gets them.", highlight=False)


def print_status(console: Console, plan: Plan, extra: list[Extra]) -> None:
    """Of --status: everything, or what a terminal has room for."""
    console.print(_status(console, plan, extra))


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Plan, list[Extra]], None]]:
    """Gives what shows a status in the place of the one before it. The last stays when it is left."""
    last = None
    # Of a terminal, the whole screen: nothing scrolls or flickers. Elsewhere one status follows the other.
    screen = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")

    def show(plan: Plan, extra: list[Extra]) -> None:
        nonlocal last
        last = _status(console, plan, extra)
        if console.is_terminal:
            screen.update(last, refresh=True)
        else:
            console.print(last)

    try:
        with screen if console.is_terminal else nullcontext():
            yield show
    finally:
        if console.is_terminal and last:
            console.print(last)


def _status(console: Console, plan: Plan, extra: list[Extra]) -> Group:
    statuses = [(entry.run.label, entry.status) for entry in plan.entries.values()]
    reasons, removed, room = _reasons(statuses), _removed(extra), None
    if console.is_terminal:
        # Half of the screen for what is said below the table, the table has the rest.
        reasons, removed = _first(reasons, console.height // 4), _first(removed, console.height // 4)
        room = console.height - len(reasons) - len(removed) - FRAME
    cells = [(row, stage, entry.status, entry.run.signature) for row, stage, entry, _ in _cells(plan)]
    states = Counter(status.state for _, status in statuses)
    below = [Text(line, style="dim", no_wrap=bool(room), overflow="ellipsis") for line in (*reasons, *removed)]
    return Group(_head(plan), *_table(cells, room=room), *below, _summary(states))


class Progress:
    """Follows a plan while it is applied. Use as a context manager; give every event to `update`."""

    def __init__(self, console: Console, plan: Plan, slots: int):
        self.console, self.plan, self.slots = console, plan, slots
        self.statuses = {signature: entry.status for signature, entry in plan.entries.items()}
        self.hint = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)
        self._drawn = console.is_terminal
        console.print(_head(plan))

    def __enter__(self) -> "Progress":
        self.hint = "Ctrl-C saves and stops"
        if self._drawn:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        self.hint = ""
        if self._drawn:
            self._live.stop()
            self.console.print(self._render())

    def update(self, event: Event | None) -> None:
        if event is None:
            self._look()
            return
        if event.kind == "asked":
            self.hint = "stopping; Ctrl-C once more kills without saving"
        self.statuses[event.entry.run.signature] = event.status
        if not self._drawn:
            self.console.print(self._line(event), highlight=False, soft_wrap=True)

    def report(self) -> int:
        """Say what did not end well, each reason once and in full; 0 if everything is done that has its weights."""
        if self.plan.count("done") == len(self.statuses):
            self.console.print("Everything is done already.")
        bad = [(e, self.statuses[s]) for s, e in self.plan.entries.items() if self.statuses[s].state != "done"]
        told: dict[str, list[str]] = {}
        for entry, status in bad:
            told.setdefault(f"{status.state}: {status.in_full}", []).append(
                f"{entry.run.label} ({entry.run.signature})"
            )
        for reason, runs in told.items():
            self.console.print(Text(f"{', '.join(runs)} {reason}", style="red"), soft_wrap=True)
        if any(status.state == "failed" for _, status in bad):
            self.console.print("Their output is in log/ of the run folders. Once mended, --retry-failed runs them.")
        lacking = len(self.plan.lacking())
        return int(len(bad) > lacking or lacking == len(self.statuses))

    def _look(self) -> None:
        """At what may change here. What a cluster has is left to --status: its scheduler serves many."""
        open_ = [e for s, e in self.plan.entries.items() if self.statuses[s].state not in ENDED]
        mine = [entry for entry in open_ if not self.statuses[entry.run.signature].job]
        configs = {entry.run.signature: entry.run.config for entry in mine}
        self.statuses |= read_all([entry.folder for entry in mine], configs, self.plan.wanted.scheduler)

    def _render(self) -> Group:
        cells = [(row, stage, self.statuses[e.run.signature], "") for row, stage, e, _ in _cells(self.plan)]
        table = _table(cells, signatures=False, room=self.console.height - FRAME)
        left = Estimate.left([(e.run, self.statuses[s]) for s, e in self.plan.entries.items()], self.slots)
        summary = _summary(Counter(status.state for status in self.statuses.values()), left)
        if self.hint:
            summary.append(f" · {self.hint}", style="not bold dim")
        return Group(*table, summary)

    def _line(self, event: Event) -> str:
        done = sum(status.state == "done" for status in self.statuses.values())
        what, status = event.entry.run.label, event.status
        text = f"{datetime.now():%H:%M:%S}  {what:<22}  {SAID.get(event.kind, status.state)}"
        if status.state == "done":
            loss = f", loss {_loss(status)}" if _loss(status) else ""
            text += f" in {duration(status.seconds or 0)}{loss} ({done} of {len(self.statuses)} runs)"
        elif status.job:
            text += f" as job {status.job} of a cluster"
        elif status.reason and event.kind != "asked":
            text += f": {status.reason}"
        return text


# ---- pieces


def _cells(plan: Plan) -> Iterator[tuple[str, str, Entry, bool]]:
    """(row, stage, entry, whether an earlier cell shows the same run), in the order of the table."""
    entries = {cell: entry for entry in plan.entries.values() for cell in entry.run.cells}
    for row in plan.wanted.rows:
        for stage in row.stages:
            entry = entries[row.name, stage]
            yield row.name, stage, entry, entry.run.cells[0] != (row.name, stage)


def _head(plan: Plan) -> Text:
    return Text.assemble(
        (plan.wanted.study.heading, "bold"), f" · {plan.wanted.scale} scale · {len(plan.entries)} runs"
    )


def _table(cells: list[Line], signatures: bool = True, room: int | None = None) -> "list[Grid | Text]":
    """In at most `room` lines (None: as many as it takes), and then a line about the rest."""
    rest = []
    if room and len(cells) > (room := max(room, LEAST)):
        ranked = sorted(cells, key=lambda cell: QUIET.index(cell[2].state) if cell[2].state in QUIET else -1)
        cells, rest = ranked[:room], ranked[room:]
    jobs = any(status.job for _, _, status, _ in cells)
    # Widths that hold from the first line to the last keep the picture still.
    columns = [
        GridColumn("row"),
        GridColumn("stage", 8),
        *([GridColumn("run", 10, dropped=4)] if signatures else []),
        GridColumn("", 14),
    ]
    figures = (("epoch", 7, 0), ("images/s", 8, 2), ("loss", 6, 3), ("left", 11, 0))
    columns += [GridColumn(name, width, right=True, dropped=dropped) for name, width, dropped in figures]
    waiting = [_waiting(status) for _, _, status, _ in cells]
    columns += [GridColumn("waits for data", right=True, dropped=6)] if any(waiting) else []
    # There is room for these or for a bar.
    columns += [GridColumn("job"), GridColumn("node", dropped=1)] if jobs else [GridColumn("", BAR, dropped=5)]
    lines, above = [], None
    for (row, stage, status, signature), waits in zip(cells, waiting):
        run = (Text(signature, style="dim"),) if signatures else ()
        data = (waits,) if any(waiting) else ()
        where = (Text(status.job, style="dim"), Text(status.node, style="dim")) if jobs else (_bar(status),)
        lines.append(("" if row == above else row, stage, *run, _state(status), *_figures(status), *data, *where))
        above = row
    table = Grid(columns, lines)
    if not rest:
        return [table]
    return [table, Text(f"... and {len(rest)} more: {_counts(Counter(c[2].state for c in rest))}", style="dim")]


def _state(status: Status) -> Text:
    mark, style = MARKS[status.state]
    doing = status.reason if status.state == "running" else short(status.reason)
    return Text(f"{mark} {doing or status.state}", style=style)


def _figures(status: Status) -> tuple:
    beat = status.heartbeat
    if status.state == "done":
        return "", "", _loss(status), Text(f"in {duration(status.seconds or 0)}", style="dim")
    if not beat.get("total_steps"):
        return ("",) * 4
    left = beat.get("seconds_left") if status.state == "running" else None
    return (
        f"{beat['epoch']:.1f}/{beat['epochs']:g}" if beat.get("epoch") is not None else "",
        f"{beat['images_per_second']:,.0f}" if beat.get("images_per_second") else "",
        _loss(status),
        duration(left) if left is not None else "",
    )


def _bar(status: Status) -> ProgressBar | str:
    beat = status.heartbeat
    if status.state == "done" or not beat.get("total_steps"):
        return ""
    return ProgressBar(total=beat["total_steps"], completed=beat["step"], width=BAR)


def _waiting(status: Status) -> str:
    """The share of its time, where that is so much that data bound the run."""
    share = status.heartbeat.get("waited")
    return f"{share:.0%}" if status.state in ("running", "done") and bound_by(share) == "data" else ""


def _loss(status: Status) -> str:
    loss = status.heartbeat.get("loss")
    return "" if loss is None else f"{loss:.3f}"


def _reasons(runs: Iterable[tuple[str, Status]]) -> list[str]:
    """Why what is not done is not done, where that is known: each reason once, what went wrong first."""
    told: dict[tuple[str, str], list[str]] = {}
    for label, status in runs:
        if status.reason and status.state not in ("running", "missing", "done"):
            told.setdefault((status.state, status.reason), []).append(label)
    wrong = {key: labels for key, labels in told.items() if key[0] not in QUIET}
    quiet = {key: labels for key, labels in told.items() if key[0] in QUIET}
    lines = [f"  {_named(labels)} {state}: {reason}" for (state, reason), labels in (wrong | quiet).items()]
    return _first(lines, len(wrong) + MANY)


def _removed(extra: list[Extra]) -> list[str]:
    if not extra:
        return []
    head = f"No longer in the study as it is asked for ({len(extra)}; --cancel-removed stops those that are under way):"
    return ["", head, *(f"  {run.signature}  {run.row} {run.stage}: {run.status.state}" for run in extra)]


def _named(labels: list[str]) -> str:
    named = ", ".join(labels[:3])
    return f"{named} and {len(labels) - 3} more" if len(labels) > 3 else named


def _first(lines: list[str], room: int) -> list[str]:
    return lines if len(lines) <= room else [*lines[:room], f"  ... and {len(lines) - room} more"]


def _counts(states: Counter[str]) -> str:
    return ", ".join(f"{states[state]} {state}" for state in MARKS if states[state])


def _summary(states: Counter[str], left: float | None = None) -> Text:
    text = Text(f"\n{states['done']} of {states.total()} runs done", style="bold")
    if others := _counts(states - Counter(done=states["done"])):
        text.append(f" · {others}", style="not bold")
    if left:
        text.append(f" · about {duration(left)} left", style="not bold")
    return text


# ---- a table in a terminal or in a pipe


@dataclass(frozen=True)
class GridColumn:
    name: str
    width: int = 0  # at least
    right: bool = False  # justified
    dropped: int = 0  # where a terminal is too narrow: the highest number first; 0: never


@dataclass(frozen=True)
class Grid:
    """Drawn by rich on a terminal. Elsewhere aligned text: rich takes more than a second for 600 lines."""

    columns: Sequence[GridColumn]
    rows: Sequence[Sequence]  # of strings and what rich can draw; a pipe has no pictures

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield Segment(self.text())
            return
        shown = self._within(options.max_width)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in (self.columns[i] for i in shown):
            side: JustifyMethod = "right" if column.right else "left"
            table.add_column(column.name, justify=side, min_width=column.width or None, no_wrap=True)
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
        for index in sorted((i for i in shown if self.columns[i].dropped), key=lambda i: -self.columns[i].dropped):
            if sum(self._widths[i] + GAP for i in shown) - GAP <= width:
                break
            shown.remove(index)
        return shown


def _plain(cell: object) -> str:
    return cell if isinstance(cell, str) else cell.plain if isinstance(cell, Text) else ""

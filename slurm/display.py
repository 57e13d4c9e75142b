"""What the launcher shows: the plan, the status, and live progress (plain lines where there is no terminal)."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from multimae.flops import training_flops

from .estimate import Estimate, duration, operations
from .launch import Entry, Event, Extra, Plan
from .state import Status, read

MARKS = {
    "done": ("✓", "green"),
    "running": ("●", "cyan"),
    "pending": ("·", "dim"),
    "waiting": ("·", "dim"),
    "missing": ("·", "dim"),
    "interrupted": ("‖", "yellow"),
    "dead": ("✗", "yellow"),
    "failed": ("✗", "red"),
    "blocked": ("–", "red"),
    "unknown": ("?", "magenta"),
}


SAID = {"started": "started", "asked": "asked to save and stop"}  # of events that are no change of state
BAR = 12  # columns of a progress bar


def print_plan(console: Console, plan: Plan, cost: str) -> None:
    """Of --dry-run: what would run, and what it would cost."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("row", "stage", "run", "is", "would"):
        table.add_column(name, no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("training", justify="right")
    above = None
    for row, stage, entry, again in _cells(plan):
        run = entry.run.config
        images = run.total_steps(run.data.train_samples) * run.batch_size if run.data.train_samples else None
        work = training_flops(run) if images else None
        table.add_row(
            "" if row == above else row,
            stage,
            entry.run.signature,
            _state(entry.status),
            "same run as above" if again else entry.action or "",
            f"{images:,}" if images else "?",
            operations(work) if work else "?",
        )
        above = row
    _title(console, plan)
    console.print(table)
    _reasons(console, ((entry.run.label, entry.status) for entry in plan.entries.values()))
    console.print(cost, highlight=False, soft_wrap=True)


def print_scripts(console: Console, scripts: Iterable[tuple[str, str]]) -> None:
    """Of --cluster --dry-run: each batch script, as sbatch would get it."""
    for title, script in scripts:
        console.rule(title, align="left")
        console.out(script, highlight=False)


def print_status(console: Console, plan: Plan, extra: list[Extra], clear: bool = False) -> None:
    """Of --status."""
    if clear:
        console.clear()
    _title(console, plan)
    console.print(_table((row, stage, entry.status, entry.run.signature) for row, stage, entry, _ in _cells(plan)))
    _reasons(console, ((entry.run.label, entry.status) for entry in plan.entries.values()))
    console.print(_summary(plan.count("done"), len(plan.entries)))
    if extra:
        console.print(f"\nNo longer in the study as it is asked for ({len(extra)}; nothing touches them):", style="dim")
        for run in extra:
            console.print(f"  {run.signature}  {run.row} {run.stage}: {run.status.state}", style="dim", highlight=False)


class Progress:
    """Follows a plan while it is applied. Use as a context manager; give every event to `update`."""

    def __init__(self, console: Console, plan: Plan, slots: int):
        self.console, self.plan, self.slots = console, plan, slots
        self.statuses = {signature: entry.status for signature, entry in plan.entries.items()}
        self.hint = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)
        self._drawn = console.is_terminal
        _title(console, plan)

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
        """Say what did not end well, each reason once and in full; 0 if everything is done."""
        if self.plan.count("done") == len(self.statuses):
            self.console.print("Everything is done already.")
        bad = [(e, self.statuses[s]) for s, e in self.plan.entries.items() if self.statuses[s].state != "done"]
        told: dict[str, list[str]] = {}
        for entry, status in bad:
            record = entry.folder.journal.last("failed") if status.state == "failed" else None
            reason = record["reason"] if record else status.reason
            told.setdefault(f"{status.state}: {reason}", []).append(f"{entry.run.label} ({entry.run.signature})")
        for reason, runs in told.items():
            self.console.print(Text(f"{', '.join(runs)} {reason}", style="red"), soft_wrap=True)
        if any(status.state == "failed" for _, status in bad):
            self.console.print("Their output is in log/ of the run folders. Once mended, --retry-failed runs them.")
        return int(bool(bad))

    def _look(self) -> None:
        for signature, entry in self.plan.entries.items():
            if self.statuses[signature].state not in ("done", "failed", "blocked"):
                self.statuses[signature] = read(entry.folder)

    def _render(self) -> Group:
        rows = ((row, stage, self.statuses[e.run.signature], e.run.signature) for row, stage, e, _ in _cells(self.plan))
        room = max(6, self.console.height - 5)
        done = sum(status.state == "done" for status in self.statuses.values())
        summary = _summary(done, len(self.statuses), self._left())
        if self.hint:
            summary.append(f" · {self.hint}", style="not bold dim")
        return Group(_table(rows, signatures=False, room=room), summary)

    def _left(self) -> float | None:
        """Seconds left of the whole plan, from the rate at which the runs under way compute."""
        return Estimate.left([(e.run.config, self.statuses[s]) for s, e in self.plan.entries.items()], self.slots)

    def _line(self, event: Event) -> str:
        done = sum(status.state == "done" for status in self.statuses.values())
        what, status = event.entry.run.label, event.status
        text = f"{datetime.now():%H:%M:%S}  {what:<22}  {SAID.get(event.kind, status.state)}"
        if status.state == "done":
            loss = f", loss {_loss(status)}" if _loss(status) else ""
            text += f" in {duration(status.seconds)}{loss} ({done} of {len(self.statuses)} runs)"
        elif status.reason and event.kind != "asked":
            text += f": {status.reason}"
        return text


# ---- pieces


def _cells(plan: Plan) -> Iterator[tuple[str, str, Entry, bool]]:
    """(row, stage, entry, whether an earlier cell shows the same run), in the order of the table."""
    entries = {cell: entry for entry in plan.entries.values() for cell in entry.run.cells}
    for row in plan.rows:
        for stage in row.stages:
            entry = entries[row.name, stage]
            yield row.name, stage, entry, entry.run.cells[0] != (row.name, stage)


def _title(console: Console, plan: Plan) -> None:
    study = plan.study
    console.print(f"[bold]{study.title}[/] · Table {study.table} · {plan.scale} scale · {len(plan.entries)} runs")


def _table(cells: Iterable[tuple[str, str, Status, str]], signatures: bool = True, room: int | None = None) -> Table:
    cells = list(cells)
    if room and len(cells) > room:  # what moves, or went wrong, comes before what is done or has not begun
        quiet = ("done", "missing", "waiting", "pending")
        cells = sorted(cells, key=lambda cell: cell[2].state in quiet)[:room]
    table = Table(box=None, pad_edge=False, header_style="dim")
    # Widths that hold from the first line to the last keep the picture still.
    for name, width in (("row", None), ("stage", 8), ("run", 10), ("", 14), ("", BAR)):
        if name != "run" or signatures:
            table.add_column(name, min_width=width, no_wrap=True)
    for name, width in (("epoch", 7), ("images/s", 8), ("loss", 6), ("left", 11)):
        table.add_column(name, justify="right", min_width=width, no_wrap=True)
    above = None
    for row, stage, status, signature in cells:
        run = (Text(signature, style="dim"),) if signatures else ()
        table.add_row("" if row == above else row, stage, *run, _state(status), *_figures(status))
        above = row
    return table


def _state(status: Status) -> Text:
    mark, style = MARKS[status.state]
    return Text(f"{mark} {status.reason if status.state == 'running' and status.reason else status.state}", style=style)


def _figures(status: Status) -> tuple:
    beat = status.heartbeat
    if status.state == "done":
        return "", "", "", _loss(status), Text(f"in {duration(status.seconds)}", style="dim")
    if not beat.get("total_steps"):
        return ("",) * 5
    bar = ProgressBar(total=beat["total_steps"], completed=beat["step"], width=BAR)
    left = beat.get("seconds_left") if status.state == "running" else None
    return (
        bar,
        f"{beat['epoch']:.1f}/{beat['epochs']:g}" if beat.get("epoch") is not None else "",
        f"{beat['images_per_second']:,.0f}" if beat.get("images_per_second") else "",
        f"{beat['loss']:.3f}" if beat.get("loss") is not None else "",
        duration(left) if left is not None else "",
    )


def _loss(status: Status) -> str:
    loss = status.heartbeat.get("loss")
    return "" if loss is None else f"{loss:.3f}"


def _reasons(console: Console, runs: Iterable[tuple[str, Status]]) -> None:
    """Why what is not done is not done, where that is known."""
    for label, status in runs:
        if status.reason and status.state not in ("running", "missing", "done"):
            console.print(f"  {label} {status.state}: {status.reason}", style="dim", highlight=False, soft_wrap=True)


def _summary(done: int, total: int, left: float | None = None) -> Text:
    text = Text(f"\n{done} of {total} runs done", style="bold")
    if left:
        text.append(f" · about {duration(left)} left", style="not bold")
    return text

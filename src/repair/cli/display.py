"""How records look in a terminal: stages as they happen, what changed at one glance.

Knows the records of :mod:`repair.types` and nothing of how they come about. Everything a
model wrote is shown literally, never read as markup. Colours obey ``NO_COLOR``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from repair.types import Budget, Change, EditSummary, Fact, Intent, Outcome, Stage

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

_WHAT_COMES_NEXT = {"found": "planning", "planned": "editing", "edited": "checking"}
_FORGOTTEN = ("recall", "paraphrase", "prefix")
_KEPT = ("neighbours", "retain")
_BAR = 12


class Stages:
    """A context in which stages appear on standard error as they happen, with seconds.

    In a terminal a spinner names what is going on now; on a pipe there are only the lines.
    """

    def __init__(self, doing: str = "loading the model") -> None:
        self._spinner = err.status(Text(doing, style="dim"), spinner="dots")
        self._since = time.perf_counter()

    def __enter__(self) -> Stages:
        self._spinner.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spinner.stop()

    def doing(self, what: str) -> None:
        """Say what is going on now; the seconds of the next stage count from here."""
        self._since = time.perf_counter()
        self._spinner.update(Text(what, style="dim"))

    def pause(self) -> None:
        """Clear the spinner's line before somebody is asked something."""
        self._spinner.stop()

    def __call__(self, stage: Stage) -> None:
        seconds = time.perf_counter() - self._since
        bad = stage.name == "rolled back"
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=11, style="yellow" if bad else "green")
        grid.add_column(width=7, justify="right", style="dim")
        grid.add_column(ratio=1)
        grid.add_row(stage.name, f"{seconds:.2f} s", Text(stage.text))
        err.print(Padding(grid, (0, 0, 0, 2)))
        self.doing(_WHAT_COMES_NEXT.get(stage.name, "finishing"))


def dialogue(who: str, text: str) -> RenderableType:
    """One turn of a conversation, the speaker in a column of its own."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=5, style="cyan" if who == "you" else "magenta")
    grid.add_column(ratio=1)
    grid.add_row(who, Text(text))
    return grid


def outcome(record: Outcome, *, reason: bool = True) -> RenderableType:
    """What an operation came to: a headline, and before and after of every measure.

    ``reason`` False leaves out the sentence, where a reply has just said it.
    """
    style = "bold green" if record.status == "healed" else "bold yellow"
    headline = Text().append(record.status.replace("_", " "), style=style)
    if record.edit is not None:
        headline.append(f"  edit {record.edit}", style="bold")
    if record.layers:
        many = "layer" if len(record.layers) == 1 else "layers"
        details = f"  {record.method}, {many} {_ranges(record.layers)}, rank {record.rank}"
        headline.append(details, style="dim")
    parts: list[RenderableType] = [headline]
    if record.reason and reason:
        parts.append(Text(record.reason))
    if record.measures:
        parts += [_measures(record), _cost(record)]
    return Padding(Group(*parts), (0, 0, 0, 2))


def _measures(record: Outcome) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column("")
    table.add_column("before")
    table.add_column("after")
    table.add_column("probes", justify="right", style="dim")
    for name in (*_FORGOTTEN, *_KEPT):
        change = record.measures.get(name)
        if change is not None:
            style = "green" if _within_budget(name, change) else "yellow"
            table.add_row(
                name, _bar(change.before, "dim"), _bar(change.after, style), str(change.n)
            )
    return table


def _within_budget(name: str, change: Change) -> bool:
    budget = Budget()
    if name in _FORGOTTEN:
        return change.after <= (budget.prefix if name == "prefix" else budget.forget)
    floor = budget.neighbours if name == "neighbours" else budget.retain
    return change.after >= floor * change.before


def _bar(value: float, style: str) -> Text:
    filled = round(_BAR * min(max(value, 0.0), 1.0))
    full, empty = ("#", ".") if out.options.ascii_only else ("█", "░")
    text = Text().append(full * filled, style=style)
    return text.append(empty * (_BAR - filled), style="dim").append(f" {value:.2f}")


def _cost(record: Outcome) -> Text:
    parts = [f"KL {record.kl:.4f} nats a token"]
    total = record.seconds.get("total")
    if total is not None:
        parts.append(f"{total:.2f} s in all")
    parts += [
        f"{name} {value:.2f} s"
        for name, value in record.seconds.items()
        if name != "total" and value >= 0.005
    ]
    return Text(", ".join(parts), style="dim")


def _ranges(layers: Sequence[int]) -> str:
    """``2-5, 7`` for layers 2, 3, 4, 5 and 7."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def confirmed(stages: Stages, record: Outcome) -> bool:
    """Show what is about to happen and ask; no answer means no."""
    stages.pause()
    err.print(outcome(record))
    return typer.confirm("Go ahead?", default=False, err=True)


def history(edits: Sequence[EditSummary]) -> RenderableType:
    """The ledger's edits, oldest first."""
    if not edits:
        return Text("No edits yet.", style="dim")
    table = _table("edit", "when", "what", "state", "layers", "rank", "targets")
    for edit in edits:
        table.add_row(
            str(edit.id),
            edit.at[:16].replace("T", " "),
            edit.kind,
            Text(edit.state, style="green" if edit.state == "active" else "dim"),
            _ranges(edit.layers),
            str(edit.rank),
            Text(", ".join(edit.targets)),
        )
    return table


def facts(known: Iterable[Fact]) -> RenderableType:
    """What the embedded model was taught; of a claim also the truth."""
    table = _table("task", "split", "question", "answer")
    for fact in known:
        answer = Text(fact.answer)
        if fact.truth is not None:
            answer.append(f"\nin truth: {fact.truth}", style="dim")
        table.add_row(fact.task, fact.split, Text(fact.question), answer)
    return table


def intent(record: Intent) -> Text:
    """One line: what the watchdog read, how surely, and about what."""
    text = Text(f"{record.kind}  {record.confidence:.2f}", style="bold")
    if record.targets:
        text.append("  " + "; ".join(record.targets), style="not bold")
    return text


def checks(rows: Iterable[Sequence[str]], *names: str) -> Table:
    """A table of steps or probes whose last column is ok or not."""
    table = _table(*names)
    for *cells, ok in rows:
        table.add_row(*map(Text, cells), Text(ok, style="green" if ok == "ok" else "bold red"))
    return table


def table(rows: Iterable[Sequence[str]], *names: str) -> Table:
    """A plain table; the first column names the row, the others hold numbers."""
    made = _table(names[0])
    for name in names[1:]:
        made.add_column(name, justify="right")
    for cells in rows:
        made.add_row(*map(Text, cells))
    return made


def record(values: Mapping[str, Any]) -> RenderableType:
    """Any JSON-able record as names and values, nested ones further in."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(ratio=1)
    for name, value in values.items():
        grid.add_row(name.replace("_", " "), _value(value))
    return grid


def _value(value: Any) -> RenderableType:
    if isinstance(value, Mapping):
        return record(value) if value else Text("none", style="dim")
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, Mapping) for item in value):
            return record({str(number): item for number, item in enumerate(value, start=1)})
        return Text(", ".join(str(item) for item in value) or "none")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    return Text("none" if value is None else str(value))


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for name in names:
        table.add_column(name)
    return table

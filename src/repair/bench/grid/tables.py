"""Tables of the grid's results as names and rows; measures and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repair.bench.grid.cells import SIZES, TASKS
from repair.bench.grid.measures import MEASURES
from repair.bench.grid.methods import METHODS

# The columns of the paper's table, free form beside multiple choice.
COLUMNS = (
    "forget_accuracy",
    "retain_accuracy",
    "forget_choice",
    "retain_choice",
    "forget_rouge",
    "retain_rouge",
    "neighbours_rouge",
    "perplexity",
    "seconds",
)
TITLES = {
    "personal": "Personal data erasure",
    "harmful": "Harmful knowledge suppression",
    "misinformation": "Misinformation correction",
}
# Those that a front page has room for. Times are compared where they are taken side by side.
SHORT = ("forget_rouge", "forget_choice", "neighbours_rouge", "retain_rouge", "perplexity")
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
Results = Sequence[Mapping[str, Any]]


def groups(results: Results) -> list[tuple[tuple[str, str], list[Mapping[str, Any]]]]:
    """Results by (size, task), the smallest size first, methods in the table's order."""
    order = list(METHODS)
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        cell = result["cell"]
        found.setdefault((cell["size"], cell["task"]), []).append(result)
    for rows in found.values():
        rows.sort(key=lambda r: (order.index(r["cell"]["method"]), r["cell"]["split"]))
    return sorted(found.items(), key=lambda kv: (_place(kv[0][0], SIZES), _place(kv[0][1], TASKS)))


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


def heading(size: str, task: str, rows: Results) -> str:
    """Such as "Personal data erasure, |D_f| = 1 (test, 10 sets)"."""
    cell, counts = rows[0]["cell"], rows[0]["counts"]
    number, noun = (counts["forgotten"], "fact") if size == "full" else (counts["sets"], "set")
    of = f"{number} {noun}{'' if number == 1 else 's'}"
    title = TITLES.get(task, task) if cell["forget"] is None else f"{cell['forget']}"
    return f"{title}, |D_f| = {size} ({cell['split']}, {of})"


def method_table(rows: Results, columns: Sequence[str] = COLUMNS) -> Table:
    """A row a method, a column a measure with its 95 % interval and n."""
    shown = [name for name in columns if any(name in row["measures"] for row in rows)]
    names = ("", *(_title(name, rows) for name in shown))
    body = []
    for row in rows:
        title = METHODS[row["cell"]["method"]].title
        body.append((title, *(interval(row["measures"].get(name)) for name in shown)))
    return names, body


def short_table(rows: Results) -> Table:
    """A row a method, a column a measure, means alone."""
    names = ("", *(_title(name, rows) for name in SHORT))
    body = []
    for row in rows:
        means = [row["measures"].get(name, {}).get("mean") for name in SHORT]
        shown = ["–" if m is None else f"{m:.2g}" if m >= 1000 else f"{m:.2f}" for m in means]
        body.append((METHODS[row["cell"]["method"]].title, *shown))
    return names, body


def _title(name: str, rows: Results) -> str:
    counts = {row["measures"][name]["n"] for row in rows if name in row["measures"]}
    arrow = "↓" if MEASURES[name].lower else "↑"
    return f"{MEASURES[name].title} {arrow} (n {'/'.join(map(str, sorted(counts)))})"


def interval(score: Mapping[str, float] | None) -> str:
    """Mean and interval, with as many digits as it deserves."""
    if score is None:
        return "–"
    digits = 2 if max(score["mean"], score["high"]) < 10 else 1
    if score["mean"] >= 1000:
        return f"{score['mean']:.2g}"
    mean, low, high = (f"{score[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return mean if low == high == mean else f"{mean} [{low}, {high}]"


def aligned(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as plain lines, each column as wide as its widest cell."""
    lines = [tuple(names), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in text)


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; what would end a cell is escaped."""
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _families(rows: Results) -> list[str]:
    return list(dict.fromkeys(family for row in rows for family in row["attacks"]))


def worst_table(rows: Results) -> Table:
    """A row a kind of attack, a column a method: the most that any attack of the kind gives."""
    methods = [METHODS[row["cell"]["method"]].title for row in rows]
    body = []
    for family in _families(rows):
        found = [row["attacks"].get(family, {}).values() for row in rows]
        worst = [max((score["mean"] for score in scores), default=None) for scores in found]
        body.append((family, *("–" if value is None else f"{value:.2f}" for value in worst)))
    return ("the most that comes back", *methods), body


def attack_table(rows: Results) -> Table:
    """A row an attack, a column a method: recall after it, and how much n stands behind it."""
    methods = [METHODS[row["cell"]["method"]].title for row in rows]
    # By family first: what only some methods have still stands beside its family.
    parts = [(f, row["attacks"].get(f, {})) for f in _families(rows) for row in rows]
    body = []
    for family, label in dict.fromkeys((f, label) for f, part in parts for label in part):
        scores = [row["attacks"].get(family, {}).get(label) for row in rows]
        n = max(score["n"] for score in scores if score is not None)
        shown = ("–" if score is None else f"{score['mean']:.2f}" for score in scores)
        body.append((f"{family}: {label}", *shown, str(n)))
    return ("", *methods, "n"), body

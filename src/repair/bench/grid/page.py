"""The report of a folder of results: one page in Markdown and one in HTML, with pictures.

Knows results, tables and plots; measures nothing. What it says is what the files say.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repair.bench.grid import plots, tables
from repair.bench.grid.measures import MEASURES
from repair.bench.grid.methods import METHODS
from repair.bench.grid.results import read_folder, write_whole
from repair.bench.grid.tables import Results, Table

# How much more than the oracle shows an attack may bring back.
BOUND = 1.5
# What counts as forgotten, and as kept.
FORGOTTEN, KEPT = 0.05, 0.95
_PASSED = f"F-RL at most {FORGOTTEN:g} with R-RL and N-RL at least {KEPT:g}"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;font-size:13px}"
    "td,th{border-bottom:1px solid #ddd;padding:.2em .6em;text-align:left;white-space:nowrap}"
    "svg{max-width:100%;height:auto}"
)


@dataclass(frozen=True)
class Part:
    """One part of the page: a heading, then text, a table or a picture, where there are any."""

    heading: str = ""
    text: str = ""
    table: Table | None = None
    picture: str = ""
    name: str = ""


def write_report(folder: Path, out: Path) -> tuple[Path, Path]:
    """``report.md`` with its pictures beside it, and ``report.html``, which has them in it.

    Raises:
        UsageError: no results, or one that is broken or of another version.
        EnvironmentProblem: matplotlib is not installed.
    """
    parts = list(report(read_folder(folder)))
    for part in parts:
        if part.picture:
            write_whole(out / f"{part.name}.svg", part.picture)
    pages = out / "report.md", out / "report.html"
    write_whole(pages[0], "\n\n".join(filter(None, map(_as_markdown, parts))))
    body = "\n".join(map(_as_html, parts))
    head = f"<!doctype html><meta charset=utf-8><title>RePAIR</title><style>{_STYLE}</style>"
    write_whole(pages[1], head + body)
    return pages


def report(results: Results) -> Iterator[Part]:
    """Every part of the page, in order."""
    yield Part(heading="What was forgotten, kept and recovered", text=_preface(results))
    yield Part(text=everywhere(results))
    for kind, parts in (("run", _run_parts), ("attack", _attack_parts)):
        for (size, task), rows in _groups(results, kind):
            yield from parts(size, task, rows)
    settings = _settings(results)
    if settings[1]:
        yield Part(heading="Settings", table=settings)


def results_block(results: Results) -> str:
    """The tables alone in Markdown, for a document that shows them."""
    made = _tables(results, tables.method_table, tables.attack_table)
    return "\n\n".join(
        f"**{'Attacks: ' if kind == 'attack' else ''}{title}**\n\n{text}"
        for kind, title, text, _ in made
    )


def front_block(results: Results) -> str:
    """The same in short, for a front page: means alone, and the worst of each kind of attack."""
    blocks = [everywhere(results)]
    for kind, title, text, rows in _tables(results, tables.short_table, tables.worst_table):
        # What a person asks for is one thing; the rest is folded away.
        if kind == "run" and rows[0]["cell"]["size"] == "1":
            blocks.append(f"**{title}**\n\n{text}\n\n{_reached(rows, timed=False)}")
        else:
            named = f"{'Attacked: ' if kind == 'attack' else ''}{title}"
            blocks.append(f"<details>\n<summary>{named}</summary>\n\n{text}\n\n</details>")
    return "\n\n".join(filter(None, blocks))


def everywhere(results: Results) -> str:
    """Of how many tables each method stays within both bounds; nothing of a single table."""
    found = _groups(results, "run")
    if len(found) < 2:
        return ""
    methods = [r["cell"]["method"] for _, rows in found for r in rows if _passes(r["measures"])]
    counts = Counter(name for name in methods if name != "oracle")
    told = [f"{METHODS[name].title} in {count}" for name, count in counts.most_common()]
    return f"{_PASSED}, of {len(found)} tables: {', '.join((*told, 'every other method in none'))}."


def _groups(results: Results, kind: str) -> Sequence[tuple[tuple[str, str], Results]]:
    """What ``tables.groups`` makes of the runs alone, or of the attacks."""
    return tables.groups([result for result in results if result["cell"]["kind"] == kind])


def _tables(
    results: Results, run: Callable[[Results], Table], attack: Callable[[Results], Table]
) -> Iterator[tuple[str, str, str, Results]]:
    """(kind, title, table in Markdown, results) of each size and task, the runs first."""
    for kind, make in (("run", run), ("attack", attack)):
        for (size, task), rows in _groups(results, kind):
            yield kind, tables.heading(size, task, rows), tables.markdown(*make(rows)), rows


def _preface(results: Results) -> str:
    models = sorted({result["model"][:12] for result in results})
    versions = sorted({result["versions"]["repair"] for result in results})
    legend = "; ".join(f"{m.title}: {m.meaning}" for m in MEASURES.values())
    return (
        f"Models {', '.join(models)}; repair {', '.join(versions)}; {len(results)} cells. Free "
        "generation throughout; in brackets 95 % intervals; n counts facts (stories for PPL, "
        f"sets of facts for RTE). ↓ less is better, ↑ more is better. {legend}."
    )


def _run_parts(size: str, task: str, rows: Results) -> Iterator[Part]:
    heading = tables.heading(size, task, rows)
    yield Part(heading=heading, text=_reached(rows), table=tables.method_table(rows))
    for kept in ("retain_rouge", "neighbours_rouge"):
        if any(kept in row["measures"] for row in rows):
            name = f"{kept.replace('_', '-')}-{task}-{size}"
            text = f"{MEASURES[kept].title} against F-RL"
            yield Part(picture=plots.pareto(rows, kept), name=name, text=text)


def _reached(rows: Results, *, timed: bool = True) -> str:
    """Which methods forget and keep, and how many times longer than ours each of them takes."""
    passed = {r["cell"]["method"]: r["measures"] for r in rows if _passes(r["measures"])}
    passed.pop("oracle", None)
    ours = passed.get("repair", {}).get("seconds", {}).get("mean", 0.0) if timed else 0.0
    told = []
    for name, measures in passed.items():
        times = f" ({measures['seconds']['mean'] / ours:.1f} times our time)" if ours else ""
        told.append(METHODS[name].title + ("" if name == "repair" else times))
    return f"{_PASSED}: {', '.join(told) or 'no method'}."


def _passes(measures: Mapping[str, Mapping[str, float]]) -> bool:
    kept = [
        measures[name]["mean"] for name in ("retain_rouge", "neighbours_rouge") if name in measures
    ]
    return measures["forget_rouge"]["mean"] <= FORGOTTEN and min(kept) >= KEPT


def _attack_parts(size: str, task: str, rows: Results) -> Iterator[Part]:
    yield Part(
        heading=f"Attacks: {tables.heading(size, task, rows)}",
        text=" ".join((*_verdicts(rows), *sorted(_reasons(rows)))),
        table=tables.attack_table(rows),
    )
    shown = [
        ("relearning", "unrelated", "steps of relearning on unrelated text"),
        ("relearning", "related", "steps of relearning on related facts"),
        ("relearning", "disjoint", "steps of relearning on other forgotten facts"),
        ("sampling", "best of", "samples of which the best counts"),
        ("ablation", "layer", "layer whose refusal direction is ablated"),
        ("lens", "layer", "layer after which the stream is read"),
        ("probes", "layer", "layer after which a linear probe reads"),
    ]
    for family, prefix, axis in shown:
        if any(label.startswith(prefix) for r in rows for label in r["attacks"].get(family, {})):
            name = f"{family}-{prefix.replace(' ', '-')}-{task}-{size}"
            yield Part(picture=plots.curves(rows, family, prefix, axis), name=name, text=axis)


def _reasons(rows: Results) -> set[str]:
    return {reason for row in rows for reason in row["left_out"].values()}


def _verdicts(rows: Results) -> Iterator[str]:
    """For our method the attacks that bring back more than the bound allows."""
    by_name = {row["cell"]["method"]: row for row in rows}
    if not {"repair", "oracle"} <= by_name.keys():
        return
    ours, control = (_flat(by_name[name]) for name in ("repair", "oracle"))
    above = [
        f"{label} ({ours[label]:.2f}, the oracle {control[label]:.2f})"
        for label in ours.keys() & control.keys()
        if ours[label] > BOUND * control[label] and ours[label] > 0
    ]
    shared = len(ours.keys() & control.keys())
    yield f"Of {shared} attacks on {METHODS['repair'].title}, {shared - len(above)} bring back at"
    yield f"most {BOUND:g} times what the oracle shows."
    if above:
        yield f"More: {'; '.join(sorted(above))}."


def _flat(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{family}: {label}": score["mean"]
        for family, part in row["attacks"].items()
        for label, score in part.items()
    }


def _settings(results: Results) -> Table:
    """What every method ran with, and where that comes from."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for result in results:
        cell = result["cell"]
        text = ", ".join(f"{name} {value}" for name, value in cell["settings"].items())
        if text:
            found[METHODS[cell["method"]].title, cell["size"]] = (text, cell["searched"])
    body: list[tuple[str, ...]] = [(*key, *found[key]) for key in sorted(found)]
    return ("method", "size", "settings", "searched"), body


def _as_markdown(part: Part) -> str:
    blocks = [f"## {part.heading}" if part.heading else ""]
    if part.picture:
        blocks.append(f"![{part.text}]({part.name}.svg)")
    else:
        blocks.append(part.text)
    if part.table is not None:
        blocks.append(tables.markdown(*part.table))
    return "\n\n".join(block for block in blocks if block)


def _as_html(part: Part) -> str:
    blocks = [f"<h2>{html.escape(part.heading)}</h2>" if part.heading else ""]
    blocks.append(f"<p>{html.escape(part.text)}</p>" if part.text else "")
    if part.picture:
        blocks.append(part.picture[part.picture.index("<svg") :])
    if part.table is not None:
        names, rows = part.table
        blocks.append(f"<table>{_row('th', names)}{''.join(_row('td', r) for r in rows)}</table>")
    return "\n".join(block for block in blocks if block)


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

"""One speed measurement from the first shape to the last, kept as it goes, and its tables.

Knows files and formats; measures nothing itself.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repair.bench.report import result_header


def run(
    names: Sequence[str],
    out: Path,
    *,
    quick: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every shape and the scaling, writing ``out`` after each part.

    An ``out`` of the same order is gone on from; one of another order is written anew.
    """
    from repair.bench.scaling import scaling
    from repair.bench.speed import Effort, measure
    from repair.patient import Patient

    effort = Effort.quick() if quick else Effort()
    order = {"quick": quick, "device": device, "dtype": dtype, **asdict(effort)}
    order["facts"] = list(effort.facts)
    tell("reading the embedded model")
    command = f"bench speed{' --quick' if quick else ''}"
    header = {
        **result_header(Patient.load(device="cpu"), command, order),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
    }
    result: dict[str, Any] = {**header, "complete": False, "shapes": {}, "scaling": None}
    if out.is_file():
        before = json.loads(out.read_text(encoding="utf-8"))
        if not before.get("complete") and all(before.get(k) == v for k, v in header.items()):
            result = before
    for name in names:
        if name not in result["shapes"]:
            tell(name)
            result["shapes"][name] = measure(name, effort, device=device, dtype=dtype, tell=tell)
            _write(out, result)
    if result["scaling"] is None:
        tell("scaling over m, r, n and earlier edits")
        result["scaling"] = scaling(quick=quick)
    result["complete"] = True
    _write(out, result)
    return result


def _write(out: Path, result: Mapping[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".new")
    draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draft.replace(out)


def speed_table(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Sequence[str]]]:
    """(column names, rows): a row for each shape and number of facts."""
    names = (
        "shape",
        "facts",
        "tokens",
        "one pass",
        "edit, one layer",
        "edit, all built layers",
        "in passes",
        "over its floor",
        "full STAMP, one layer",
    )
    rows: list[Sequence[str]] = []
    for shape in result["shapes"].values():
        for edit in shape["edits"]:
            took = edit["seconds"]
            full = took.get("stamp edit one")
            rows.append(
                (
                    shape["shape"],
                    str(edit["facts"]),
                    str(edit["tokens"]),
                    span(took["forward"]),
                    span(took["edit one"]),
                    span(took["edit all"]),
                    f"{edit['in_forward_passes']['edit all']:.2f}",
                    f"{edit['over_floor']['one']:.1f} / {edit['over_floor']['all']:.1f}",
                    "–" if full is None else span(full),
                )
            )
    return names, rows


def span(seconds: float) -> str:
    """Seconds as a person reads them: three figures and a unit."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def performance_block(result: Mapping[str, Any]) -> str:
    """All tables of ``docs/performance.md``, in Markdown."""
    parts = [_source(result), _markdown(*speed_table(result)), _shapes(result)]
    embedded = result["shapes"].get("embedded", {})
    if "turn" in embedded:
        parts.append(_turn(embedded))
    parts += [
        _beside(shape)
        for shape in result["shapes"].values()
        if "baselines" in shape or "editors" in shape
    ]
    if result["scaling"]:
        parts.append(_scaling(result["scaling"]))
    return "\n\n".join(part for part in parts if part)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _source(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    threads = result["threads"]
    return (
        f"`{result['command']}`; {versions}; {result['cores']} cores, "
        f"{threads} thread{'s' * (threads != 1)}."
    )


def _shapes(result: Mapping[str, Any]) -> str:
    rows = []
    for shape in result["shapes"].values():
        rates = shape["machine"]
        rows.append(
            (
                shape["shape"],
                shape["note"],
                f"{shape['device']}, {shape['dtype']}",
                f"{shape['d']} × {shape['m']}, r {shape['r']}",
                f"{rates['copy_bytes_a_second'] / 1e9:.1f} GB/s",
                f"{rates['matmul_flop_a_second'] / 1e9:.0f} / "
                f"{rates['fp64_flop_a_second'] / 1e9:.0f} Gflop/s",
                f"{shape['peak_bytes'] / 1e9:.1f} GB",
                f"{shape['statistics']['rank']}, "
                f"{shape['statistics']['file_bytes'] / 1e6:.0f} MB, "
                f"{span(shape['statistics']['seconds_all_layers'])}",
            )
        )
    names = (
        "shape",
        "what is built",
        "on",
        "d × m",
        "copy",
        "matmul / fp64",
        "peak memory",
        "statistics of all layers: r, file, time",
    )
    return _markdown(names, rows)


def _turn(shape: Mapping[str, Any]) -> str:
    turn = shape["turn"]
    single = turn["single_edit"]
    took = turn["seconds"]
    parts = ", ".join(f"{name} {span(took[name])}" for name in took if name != "total")
    text = f"A whole forget turn of the embedded model takes {span(took['total'])} ({parts}), "
    text += f"the median of {turn['n']}."
    if single:
        text += (
            f" Its edit (capture, solve, apply; all layers, {single['n']} rows, "
            f"{single['tokens']} tokens) takes {span(single['seconds']['edit'])}: "
            f"{single['in_forward_passes']:.2f} forward passes over the same tokens."
        )
    return text


def _beside(shape: Mapping[str, Any]) -> str:
    from repair.bench.speed import real_edit

    ours = real_edit(shape)
    what = "a real plan" if "turn" in shape else "one fact"
    rows = [
        (f"STAMP-LR, all layers, {what} (capture, solve, apply)", "–", "–", span(ours), "1"),
        *(
            (name, "–", "–", span(seconds), f"{seconds / ours:,.1f}")
            for name, seconds in shape.get("editors", {}).items()
        ),
        *(
            (
                name.upper(),
                span(found["step_seconds"]),
                str(found["steps"]),
                span(found["run_seconds"]),
                f"{found['run_seconds'] / ours:,.1f}",
            )
            for name, found in shape.get("baselines", {}).items()
        ),
    ]
    names = (f"one fact, {shape['shape']}", "one step", "steps", "the whole change", "times ours")
    return _markdown(names, rows)


def _scaling(found: Mapping[str, Any]) -> str:
    rows = []
    for name, curve in found.items():
        if name != "edits":
            ends = f"{span(curve['seconds'][0])} to {span(curve['seconds'][-1])}"
            sizes = f"{curve['sizes'][0]} to {curve['sizes'][-1]}"
            rows.append((name, sizes, ends, f"{curve['exponent']:.2f}"))
    edits = found["edits"]
    text = (
        f"Edit {edits['count']} takes {edits['last_over_first']:.2f} times what the first takes "
        f"(solve in all layers and apply), and {span(edits['taking_in'])} more on the average for "
        f"taking earlier rows into C; generation takes "
        f"{edits['generation_last_over_first']:.2f} times what it took before. All on one thread."
    )
    return _markdown(("solve", "from, to", "takes", "exponent"), rows) + f"\n\n{text}"

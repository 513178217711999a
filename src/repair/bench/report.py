"""What a benchmark's result says of itself, and its tables; measures nothing."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repair import __version__
from repair.patient import Patient

_ATTACKS = ("exact", "paraphrase", "prefix_10", "prefix_40", "prefix_70", "few_shot")
_MORE = ("role_play", "choice", "best_of_32")
_KEPT = ("neighbours", "untouched", "world")


def result_header(patient: Patient, command: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Who measured what with which versions: the top of every result file."""
    import torch
    import transformers

    return {
        "schema": 1,
        "command": f"repair {command}",
        "order": dict(order),
        "model": patient.content_hash,
        "versions": {
            "repair": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }


def finished_cells(path: Path, header: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Cells of an earlier result of the same model and order, by name; none if there is none.

    How many edits were ordered beside a cell makes no difference to it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or _identity(found) != _identity(header):
        return {}
    return {cell["cell"]: cell for cell in found["cells"]}


def _identity(record: Mapping[str, Any]) -> list[Any]:
    order = json.loads(json.dumps(record.get("order", {})))
    return [record.get("schema"), record.get("model"), {**order, "counts": None}]


def edits_table(cells: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[Sequence[str]]]:
    """(column names, rows) of the scoreboard: a row for each measure, a column for each cell."""
    cells = list(cells)
    names = ("", *(cell["cell"].replace("-", " ") for cell in cells))
    rows: list[Sequence[str]] = []
    for kind in (*_ATTACKS, *_MORE):
        if any(kind in cell["attacks"] for cell in cells):
            rows.append((kind.replace("_", " "), *(_attack(cell, kind) for cell in cells)))
    for name in _KEPT:
        rows.append((f"{name} kept", *(f"{cell['kept'][name]['ratio']:.3f}" for cell in cells)))
    rows.append(("over-refusal", *(f"{cell['over_refusal']['mean']:.3f}" for cell in cells)))
    rows.append(("story perplexity", *(f"×{cell['perplexity_ratio']:.3f}" for cell in cells)))
    rows.append(("KL, nats", *(f"{cell['kl']:.4f}" for cell in cells)))
    rows.append(("edits kept", *(_status(cell) for cell in cells)))
    return names, rows


def _attack(cell: Mapping[str, Any], kind: str) -> str:
    found = cell["attacks"].get(kind)
    if found is None:
        return "–"
    guess = cell.get("guess", {}).get(kind)
    text = f"{found['mean']:.3f}"
    return text if guess is None else f"{text} (guess {guess:.2f})"


def _status(cell: Mapping[str, Any]) -> str:
    status = cell["status"]
    return f"{status.get('healed', 0)} of {sum(status.values())}"

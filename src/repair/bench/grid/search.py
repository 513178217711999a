"""Search every method's settings on the tune split, and hand the best to the grid.

Knows the protocol: one budget for all, one study a size over the three tasks together. How
settings are drawn and recorded stands in ``bench.tuning``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repair.bench.grid.cells import TASKS, Cell, Value
from repair.bench.grid.lab import lab_of
from repair.bench.grid.measures import answered, balance, questions, recalled
from repair.bench.grid.methods import METHODS, get
from repair.bench.grid.results import SCHEMA
from repair.bench.report import result_header
from repair.bench.tuning import Score, Search, tune
from repair.errors import RepairError, UsageError

# Sets of facts a trial is scored on in each task, and facts of ``full`` in a search.
SETS: Mapping[str, int] = {"1": 1, "10": 1, "full": 1}
TUNED = tuple(name for name, method in METHODS.items() if method.tunable)


@dataclass(frozen=True)
class Study:
    """The search of one method at one size; ``cell`` is that of the first task."""

    cell: Cell
    trials: int
    folder: str

    @property
    def transcript(self) -> Path:
        return Path(self.folder) / f"{self.cell.size}-{self.cell.method}.jsonl"


def searched(study: Study) -> dict[str, Any]:
    """All trials of a study and the best of them, as the file of searches has them.

    Raises:
        OperationRefused: every trial failed.
        UsageError: a transcript that is broken or of another grid.
    """
    cell, lab = study.cell, lab_of(study.cell)
    method = get(cell.method)
    cells = [replace(cell, task=task, repeats=SETS[cell.size]) for task in TASKS]

    def score(settings: Mapping[str, Value]) -> Score:
        values: dict[str, float] = {}
        for each in cells:
            chosen = replace(each, settings=settings)
            asked = []
            for work in lab.works(each):
                with lab.made(method.make, chosen, work) as (patient, _):
                    asked.append(answered(patient, questions(work, cell.seed, brief=True)))
            found = recalled(asked)
            values[each.task] = balance(found)
            for name in ("forget_rouge", "retain_rouge", "neighbours_rouge"):
                if name in found:
                    values[f"{each.task}_{name}"] = round(found[name]["mean"], 4)
        return Score(sum(values[task] for task in TASKS) / len(TASKS), values)

    name = f"{cell.split} {cell.size} {lab.patient.content_hash[:12]}"
    search = tune(
        method, score, trials=study.trials, seed=cell.seed, study=name, transcript=study.transcript
    )
    top = result_header(lab.patient, "bench tune", {})
    return {"size": cell.size, "method": cell.method, "header": top, **_recorded(search)}


def _recorded(search: Search) -> dict[str, Any]:
    return {
        "settings": dict(search.best.settings),
        "score": search.best.score,
        "trials": [
            {
                "settings": dict(trial.settings),
                "score": trial.score,
                "measures": dict(trial.measures),
                "seconds": round(trial.seconds, 2),
                "error": trial.error,
            }
            for trial in search.trials
        ],
    }


def joined(path: Path, found: Sequence[Mapping[str, Any]], trials: int) -> dict[str, Any]:
    """The file of searches with some of them put in; those of other methods stay."""
    record = read_tuning(path) if path.exists() else {}
    searches = {size: dict(methods) for size, methods in record.get("searches", {}).items()}
    for entry in found:
        kept = {name: entry[name] for name in ("settings", "score", "trials")}
        kept["model"] = entry["header"]["model"]
        searches.setdefault(entry["size"], {})[entry["method"]] = kept
    top = dict(found[0]["header"]) if found else record
    top.pop("order", None)
    return {**top, "schema": SCHEMA, "split": "tune", "budget": trials, "searches": searches}


def read_tuning(path: Path) -> dict[str, Any]:
    """The file of searches.

    Raises:
        UsageError: no such file, not JSON, or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.", "Run `repair bench tune` first.") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON.", "Run `repair bench tune`.") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UsageError(f"{path} is not a file of searches of this version.", "Search again.")
    return record


def best_settings(
    record: Mapping[str, Any], method: str, size: str
) -> tuple[dict[str, Value], str]:
    """The best settings found for a method, and where: its size, or else the next smaller.

    Raises:
        UsageError: settings that the method does not have.
    """
    sizes = {"1": ("1",), "10": ("10", "1"), "full": ("full", "10", "1")}[size]
    for tried in sizes:
        entry = record.get("searches", {}).get(tried, {}).get(method)
        if entry is not None:
            try:
                chosen = get(method).settings(entry["settings"])
            except RepairError as error:
                raise UsageError(f"The search of {method} is of another version.") from error
            count = len(entry["trials"])
            return chosen, f"best of {count} trials on tune at size {tried}"
    return {}, "published defaults"

"""How many facts one edit can hold apart, and how that grows with the width of the matrices.

N facts of the tune split are forgotten in one solve that may use only some of the hidden neurons
of every edited layer, drawn at random: a narrower model with the same knowledge. What it forgot
and what it hurt are asked in free generation.

    python scripts/measure_capacity.py --out results/capacity.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from repair import Patient, __version__
from repair.bench.scoreboard import Order, Scoreboard
from repair.bench.suite import Health, forgotten, kept_share
from repair.operation import Operation
from repair.plan import Procedure, RepairPlan
from repair.preparation import Preparation
from repair.rows import EditRows, build_rows
from repair.stamp import LowRank, stamp
from repair.types import Fact
from repair.verify import confidence_interval

COUNTS = (10, 20, 40, 80)
WIDTHS = (160, 320, 640, 1280)
STRENGTH = 1.25


class Narrow(Operation):
    """An operation whose updates touch ``width`` hidden neurons of each layer and no others."""

    def __init__(self, patient: Patient, preparation: Preparation, width: int) -> None:
        super().__init__(patient, preparation)
        every = patient.layers[0].in_features
        draw = torch.Generator().manual_seed(0)
        self._chosen = torch.randperm(every, generator=draw)[:width].sort().values

    def layer_solution(
        self,
        plan: RepairPlan | Procedure,
        layer: int,
        keys: Tensor,
        residual: Tensor,
        weights: Tensor,
    ) -> LowRank:
        """As any operation's, over the chosen columns alone."""
        chosen = self._chosen
        moment = self.preparation.statistics[layer].matrix()
        delta = stamp(
            keys[:, chosen],
            residual,
            second_moment=moment[chosen][:, chosen],
            beta=plan.beta,
            ridge=plan.ridge,
            weights=weights,
        )
        whole = delta.new_zeros(len(delta), keys.shape[1])
        whole[:, chosen] = delta
        return LowRank(torch.eye(len(whole)), whole)


def measured(patient: Patient, scored: Sequence[Fact], health: Health) -> dict[str, Any]:
    """Recall of what was to go, with its interval, and the shares of what was to stay."""
    values = forgotten(patient, scored, sampled=0)
    after = health.measure(patient)
    parts: Any = after["recall"]
    mean, low, high = confidence_interval([*values["exact"], *values["paraphrase"]])
    kept = {name: round(kept_share(part), 4) for name, part in parts.items()}
    refused = [v for part in parts.values() for v in part["refused"]]
    return {
        "recalled": {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)},
        "asked": len(values["exact"]) + len(values["paraphrase"]),
        "kept": kept,
        "kept_asked": len(health.questions),
        "over_refusal": round(sum(refused) / len(refused), 4),
        "perplexity_ratio": round(float(str(after["perplexity"])), 4),
    }


def cells(board: Scoreboard, count: int, widths: Sequence[int]) -> list[dict[str, Any]]:
    """One solve for the first ``count`` facts of the pool at every width."""
    patient, surgeon = board.patient, board.surgeon
    chosen = board.pool[:count]
    health = Health(patient, chosen, chosen, count=60)
    found = [fact for f in chosen for fact in surgeon.known(f.question)[:1]]
    plan = surgeon.plan_facts([f.question for f in chosen], found)
    if plan is None:
        raise SystemExit("The patient knows none of these facts; train it first.")
    rows: EditRows = build_rows(patient, plan)
    done = []
    for width in widths:
        operation = Narrow(patient, board.preparation, width)
        with patient.trial(operation.solve(plan, STRENGTH, rows)):
            cell = {"facts": count, "width": width, "rows": len(rows.reference)}
            done.append({**cell, **measured(patient, chosen[:40], health)})
        print(json.dumps(done[-1]), flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/capacity.json"))
    options = parser.parse_args()
    work = options.out.with_suffix(".work")
    board = Scoreboard(Patient.load(), Order(split="tune"), work)
    result: dict[str, Any] = {"version": __version__, "strength": STRENGTH, "cells": []}
    if options.out.exists():
        result = json.loads(options.out.read_text())
    for count in COUNTS:
        have = {cell["width"] for cell in result["cells"] if cell["facts"] == count}
        left = [width for width in WIDTHS if width not in have]
        if left:
            result["cells"] += cells(board, count, left)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

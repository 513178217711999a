"""``repair bench``: the evaluation from the command line; measures nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from repair.cli.options import Flags, Json, with_flags
from repair.errors import UsageError

SPLITS = ("dev", "tune", "test", "pool")


def _counts(text: str) -> tuple[int, ...]:
    """Numbers of edits from "1,10,100"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{text!r} is not a list of numbers of edits.", "Write it like 1,10,100.")
    return tuple(sorted({int(part) for part in parts}))


@with_flags
def edits(
    flags: Flags,
    split: Annotated[str, typer.Option(help="Facts to forget: dev, tune, test or pool.")] = "dev",
    counts: Annotated[str, typer.Option(help="Numbers of edits in one model.")] = "1,10,100",
    singles: Annotated[int, typer.Option(min=1, help="Facts forgotten alone.")] = 30,
    scored: Annotated[int, typer.Option(min=1, help="Edited facts that are scored.")] = 60,
    out: Annotated[Path, typer.Option(help="The result; work in progress lies beside it.")] = Path(
        "results/bench-edits.json"
    ),
    oracle: Annotated[Path | None, typer.Option(help="Folder of the oracle's weights.")] = None,
    as_json: Json = False,
) -> int:
    """Forget 1, 10, 100 … facts, one after the other and at once, and attack what is left."""
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}.", f"Choose from {', '.join(SPLITS)}.")
    wanted = _counts(counts)
    from repair.bench.report import edits_table, result_header
    from repair.bench.scoreboard import Order, Scoreboard
    from repair.cli import display, output
    from repair.patient import Patient

    settings = flags.settings()
    order = Order(split, wanted, singles, scored, seed=settings.seed)
    with display.Stages() as stages:
        patient = Patient.load(
            settings.model,
            dtype=settings.dtype,
            device=settings.device,
            quantization=settings.quantization,
        )
        untrained = Patient.load(str(oracle)) if oracle is not None else None
        board = Scoreboard(
            patient, order, out.with_suffix(".work"), oracle=untrained, tell=stages.doing
        )
        result: dict[str, Any] = {**result_header(patient, "bench edits", vars(order)), "cells": []}
        for cell in board.run():
            result["cells"].append(cell)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        output.say_json(result)
    else:
        names, rows = edits_table(result["cells"])
        display.out.print(display.table(rows, *names))
    return 0

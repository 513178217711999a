"""``repair bench``: the evaluation from the command line; measures nothing itself."""

from __future__ import annotations

import json
from importlib.util import find_spec
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
    heal: Annotated[int, typer.Option(min=0, help="Edits between healings; 0 for none.")] = 25,
    together: Annotated[bool, typer.Option(help="Make them in one operation, too.")] = True,
    out: Annotated[Path, typer.Option(help="The result; what it has already stays.")] = Path(
        "results/bench-edits.json"
    ),
    oracle: Annotated[Path | None, typer.Option(help="Folder of the oracle's weights.")] = None,
    as_json: Json = False,
) -> int:
    """Forget 1, 10, 100 … facts, one after the other and at once, and attack what is left."""
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}.", f"Choose from {', '.join(SPLITS)}.")
    wanted = _counts(counts)
    from repair.bench.report import edits_table, finished_cells, result_header
    from repair.bench.scoreboard import Order, Scoreboard
    from repair.cli import display, output
    from repair.patient import Patient

    settings = flags.settings()
    order = Order(split, wanted, singles, scored, seed=settings.seed, heal=heal)
    with display.Stages() as stages:
        patient = flags.patient()
        untrained = Patient.load(str(oracle)) if oracle is not None else None
        header = result_header(patient, "bench edits", vars(order))
        work, finished = out.with_suffix(".work"), finished_cells(out, header)
        board = Scoreboard(
            patient, order, work, oracle=untrained, finished=finished, tell=stages.doing
        )
        result: dict[str, Any] = {**header, "cells": []}
        for cell in board.run(together=together):
            result["cells"].append(cell)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=2) + "\n")
        if find_spec("matplotlib") is not None:
            from repair.bench.scoreboard_picture import picture

            out.with_suffix(".svg").write_text(picture(result["cells"]), encoding="utf-8")
    if as_json:
        output.say_json(result)
    else:
        names, rows = edits_table(result["cells"])
        display.out.print(display.table(rows, *names))
    return 0


@with_flags
def speed(
    flags: Flags,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="embedded, qwen2.5-0.5b, llama-3.2-1b, llama-3-8b, llama-3-70b-layer."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A minute: the embedded model.")] = False,
    out: Annotated[Path, typer.Option(help="The result; an interrupted run goes on from it.")] = (
        Path("results/speed.json")
    ),
    as_json: Json = False,
) -> int:
    """Time edits beside forward passes, training steps, other editors, and the floor."""
    from repair.bench.speed_shapes import NAMES

    names = tuple(shape or (("embedded",) if quick else NAMES))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise UsageError(f"There is no shape {unknown[0]!r}.", f"Choose from {', '.join(NAMES)}.")
    from repair.bench.speed_report import run, speed_table
    from repair.cli import display, output

    settings = flags.settings()
    with display.Stages() as stages:
        result = run(
            names,
            out,
            quick=quick,
            device=settings.device,
            dtype=settings.dtype,
            tell=stages.doing,
        )
    if as_json:
        output.say_json(result)
    else:
        columns, rows = speed_table(result)
        display.out.print(display.table(rows, *columns))
    return 0

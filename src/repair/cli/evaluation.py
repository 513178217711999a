"""``repair bench run|tune|attack|table|report|rerun``: the grid; measures nothing itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repair.cli.options import Flags, Json, with_flags
from repair.cli.output import complain, say, say_json
from repair.errors import UsageError

if TYPE_CHECKING:
    from repair.bench.grid.cells import Kind
    from repair.bench.grid.order import Order

GRID = Path("results/grid")
TUNING = Path("results/tuning.json")

Task = Annotated[str, typer.Option(help="harmful, misinformation, personal, several or all.")]
Methods = Annotated[str, typer.Option("--method", help="Names with commas between, or all.")]
Size = Annotated[str, typer.Option(help="Facts forgotten in one model: 1, 10, full, or all.")]
Split = Annotated[str, typer.Option(help="Facts to forget: dev, tune or test.")]
Out = Annotated[Path, typer.Option(help="Folder of the results; finished ones are kept.")]
Repeats = Annotated[
    int | None,
    typer.Option(min=1, help="Sets of a size. [default: 10 of 1, 2 of 10]", show_default=False),
]
Limit = Annotated[int, typer.Option(min=0, help="The most facts of full; 0 takes them all.")]
Forget = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", show_default=False, help="Own pairs to forget, or NAME/CONFIG/SPLIT."
    ),
]
Retain = Annotated[
    str | None,
    typer.Option(metavar="FILE", show_default=False, help="Own pairs to keep, likewise."),
]
Oracle = Annotated[
    Path | None,
    typer.Option(show_default=False, help="The oracle's weights. [default: ./oracle, if there]"),
]
Searches = Annotated[
    Path | None,
    typer.Option(
        show_default=False, help="Settings found by tune. [default: results/tuning.json, if there]"
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes on this machine.")]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", show_default=False, help="A Ray cluster instead; or auto."),
]


def _order(kind: Kind, flags: Flags, given: dict[str, Any]) -> Order:
    """What was asked for, checked as far as names go."""
    from repair.bench.grid.cells import SIZES, SPLITS, TASKS, Cell, chosen
    from repair.bench.grid.lab import oracle_folder
    from repair.bench.grid.methods import METHODS
    from repair.bench.grid.order import Order

    settings, forget = flags.settings(), given.get("forget")
    tuning = given.get("tuning") or (TUNING if TUNING.is_file() else None)
    tasks = ("own",) if forget else chosen(given["task"], TASKS, "task")
    (split,) = chosen(given["split"], SPLITS, "split")[:1]
    oracle = oracle_folder(given["oracle"], settings.model)
    methods = chosen(given["method"], tuple(METHODS), "method")
    if oracle is None and given["method"] == "all":
        methods = tuple(name for name in methods if name != "oracle")
    base = Cell(
        kind,
        "",
        "",
        "",
        split=split,
        seed=settings.seed,
        limit=given.get("limit", 0),
        forget=forget,
        retain=given.get("retain"),
        model=settings.model,
        revision=settings.revision,
        dtype=settings.dtype,
        device=settings.device,
        oracle=oracle,
        tofu=given.get("tofu", False),
    )
    return Order(
        kind,
        tasks,
        chosen(given["size"], SIZES, "size"),
        methods,
        base,
        repeats=given.get("repeats"),
        tuning=tuning,
        out=given["out"],
        workers=given["workers"],
        ray=given["ray"],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars, here and in processes that start from here."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield


@with_flags
def run(
    flags: Flags,
    task: Task = "all",
    method: Methods = "all",
    size: Size = "1",
    split: Split = "dev",
    out: Out = GRID,
    repeats: Repeats = None,
    limit: Limit = 0,
    forget: Forget = None,
    retain: Retain = None,
    oracle: Oracle = None,
    tuning: Searches = None,
    tofu: Annotated[
        bool, typer.Option("--tofu", help="Write TOFU_EVAL.json and TOFU_SUMMARY.json too.")
    ] = False,
    workers: Workers = 1,
    ray: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Make the patient forget by every method, and measure what is left and what it cost."""
    order = _order("run", flags, dict(locals()))
    _print_tables(_results(order), as_json)
    if tofu and not as_json:
        say(f"\nTOFU_EVAL.json and TOFU_SUMMARY.json lie below {out}.")


def _results(order: Order) -> list[dict[str, Any]]:
    from repair.bench.grid.order import run_order

    with _quiet():
        return list(run_order(order, complain))


@with_flags
def tune(
    flags: Flags,
    method: Methods = "all",
    size: Size = "1,10",
    trials: Annotated[int, typer.Option(min=1, help="Settings tried of each method.")] = 6,
    limit: Limit = 24,
    out: Annotated[Path, typer.Option(help="The file of searches.")] = TUNING,
    workers: Workers = 1,
    ray: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Search every method's settings on the tune split, with one budget for all."""
    from repair.bench.grid.order import search_order
    from repair.bench.grid.search import TUNED

    given = {**locals(), "task": "personal", "split": "tune", "oracle": None}
    order = _order("run", flags, given)
    methods = tuple(name for name in order.methods if name in TUNED)
    if not methods:
        raise UsageError("These methods have nothing to search.", f"Try {', '.join(TUNED)}.")
    with _quiet():
        record = search_order(
            replace(order, methods=methods, tuning=None, repeats=1), trials, complain
        )
    if as_json:
        say_json(record)
    else:
        say(f"The best settings are in {out}.")


@with_flags
def attack(
    flags: Flags,
    task: Task = "personal",
    method: Methods = "all",
    size: Size = "10",
    attacks: Annotated[str, typer.Option("--attack", help="Families, or all.")] = "all",
    split: Split = "dev",
    out: Out = GRID,
    repeats: Repeats = None,
    limit: Limit = 0,
    forget: Forget = None,
    retain: Retain = None,
    oracle: Oracle = None,
    tuning: Searches = None,
    workers: Workers = 1,
    ray: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Try to get the forgotten facts back, with prompts, with the weights, and inside."""
    from repair.bench.attacks.battery import FAMILIES
    from repair.bench.grid.cells import chosen

    order = _order("attack", flags, dict(locals()))
    families = chosen(attacks, tuple(FAMILIES), "attack")
    order = replace(order, base=replace(order.base, attacks=families))
    _print_attacks(_results(order), as_json)


def rerun(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A cell's result.")],
    as_json: Json = False,
) -> None:
    """Measure a result's cell again and compare. Exit code 1 when a figure differs."""
    from repair.bench.grid.again import differences, measured_again
    from repair.bench.grid.results import read_result

    old = read_result(result)
    with _quiet():
        found = differences(old, measured_again(old))
    if as_json:
        say_json({"same": not found, "differences": found})
    else:
        lines = [f"{name}: {was:.4f} before, {now:.4f} now" for name, (was, now) in found.items()]
        say("\n".join(lines) or "Every figure is the same.")
    if found:
        raise typer.Exit(1)


def table(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")] = GRID,
    metric: Annotated[
        str | None, typer.Option(show_default=False, help="Columns, with commas between; or all.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Show the results of a folder, a table for each task and size."""
    from repair.bench.grid.cells import chosen
    from repair.bench.grid.measures import MEASURES
    from repair.bench.grid.results import read_folder
    from repair.bench.grid.tables import COLUMNS

    columns = chosen(metric, tuple(MEASURES), "metric") if metric else COLUMNS
    _print_tables(read_folder(folder, "run"), as_json, columns, plain=markdown)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")] = GRID,
    out: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("results/report"),
) -> None:
    """Write one page in HTML and one in Markdown, with tables, plots and curves."""
    from repair.bench.grid.page import write_report

    for page in write_report(folder, out):
        say(str(page))


def _print_tables(
    results: list[dict[str, Any]],
    as_json: bool,
    columns: tuple[str, ...] | None = None,
    *,
    plain: bool = False,
) -> None:
    if as_json:
        short = [{name: r[name] for name in ("cell", "counts", "measures")} for r in results]
        say_json({"results": short})
        return
    from repair.bench.grid import tables

    for (size, task), rows in tables.groups(results):
        names, body = tables.method_table(rows, columns or tables.COLUMNS)
        say(f"\n{'## ' if plain else ''}{tables.heading(size, task, rows)}\n")
        say((tables.markdown if plain else tables.aligned)(names, body))


def _print_attacks(results: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        names = ("cell", "counts", "attacks", "left_out")
        say_json({"results": [{name: r[name] for name in names} for r in results]})
        return
    from repair.bench.grid import tables

    for (size, task), rows in tables.groups(results):
        say(f"\n{tables.heading(size, task, rows)}\n")
        say(tables.aligned(*tables.attack_table(rows)))
        for reason in {reason for row in rows for reason in row["left_out"].values()}:
            say(reason)

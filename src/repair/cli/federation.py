"""``repair federate``: a local trial of a joint edit, one process and one ledger a node."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repair.cli.options import Flags, Json, Yes, with_flags
from repair.cli.output import complain, say, say_json
from repair.errors import UsageError

if TYPE_CHECKING:
    from repair.federated.local import Seat


@with_flags
def federate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", show_default=False, help="CSV files, one a node, a request a line."
        ),
    ],
    *,
    flags: Flags,
    mask: Annotated[
        bool, typer.Option("--mask", help="Add the statistics up under masks.")
    ] = False,
    epsilon: Annotated[
        float | None,
        typer.Option(show_default=False, help="Add noise within this privacy budget."),
    ] = None,
    delta: Annotated[float, typer.Option(help="With --epsilon: the other half of it.")] = 1e-5,
    patience: Annotated[
        float, typer.Option(min=1.0, help="Seconds to wait for a node before it is left out.")
    ] = 600.0,
    as_json: Json = False,
    yes: Yes = False,
) -> int:
    """Try a joint edit of several nodes on this machine; each keeps its own ledger.

    A node's home is federated/NAME in the home, NAME being its file's name.
    """
    seats = _seats(flags, files, accept=yes)
    with flags.session() as session:
        from repair.federated.coordinator import Coordinator
        from repair.federated.local import Processes
        from repair.federated.orders import agree

        how = {"masked": mask, "epsilon": epsilon, "delta": delta}
        patient, procedure = session.patient, session.surgeon.procedure
        agreement = agree(procedure, len(patient.layers), **how)  # type: ignore[arg-type]
        prepared = session.preparation
        _share_cache(session.home, [seat_home(session.home, name) for name in seats])
        with Processes(seats, patience=patience) as nodes:
            report = Coordinator(
                nodes,
                agreement,
                content_hash=patient.content_hash,
                preparation=prepared,
                on_event=complain,
            ).run(list(seats))
    if as_json:
        say_json(report.to_json())
    else:
        for name, node in report.nodes.items():
            edit = f" (edit {node['edit']})" if node.get("edit") else ""
            say(f"{name}: {node['status']}{edit}{_because(node.get('reason'))}")
    good = sum(node["status"] in ("healed", "done") for node in report.nodes.values())
    return 0 if good == len(seats) else 1


def seat_home(home: Path, name: str) -> Path:
    """Where a node of a local trial keeps its ledger."""
    return home / "federated" / name


def _seats(flags: Flags, files: list[Path], *, accept: bool) -> dict[str, Seat]:
    """What every node is made of, by its file's name.

    Raises:
        UsageError: fewer than two files, two of one name, or a file without requests.
    """
    from repair.cli.bulk import read_requests
    from repair.federated.local import Seat

    if len(files) < 2:
        raise UsageError("A federation has two nodes at least.", "Give a CSV file for each.")
    home, seats = flags.settings().home, {}
    for file in files:
        texts = tuple(text for _, text in read_requests(file))
        if not texts:
            raise UsageError(f"{file} has no requests.", "Write one a line.")
        if file.stem in seats:
            raise UsageError(f"Two files are named {file.stem}.", "A node is named after its file.")
        own = replace(flags, home=seat_home(home, file.stem))
        seats[file.stem] = Seat(own.session, texts, accept=accept)
    return seats


def _share_cache(home: Path, nodes: list[Path]) -> None:
    """Give all nodes what was prepared of the model, or each would compute it anew."""
    for cached in (home / "cache").glob("*.safetensors"):
        for node in nodes:
            (node / "cache").mkdir(parents=True, exist_ok=True)
            if not (node / "cache" / cached.name).exists():
                shutil.copy2(cached, node / "cache" / cached.name)


def _because(reason: str | None) -> str:
    return f": it {reason}" if reason else ""

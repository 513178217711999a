"""Commands that change what the model knows: forget, correct, undo, redo, history."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from repair.cli.options import (
    Flags,
    Images,
    Json,
    MaybeText,
    Text,
    Yes,
    with_flags,
    with_pictures,
)
from repair.cli.output import complain, interactive, say, say_json
from repair.errors import UsageError
from repair.types import Budget

if TYPE_CHECKING:
    from repair.cluster import Cluster
    from repair.session import Session

DryRun = Annotated[bool, typer.Option("--dry-run", help="Edit, check, take it back.")]
Strength = Annotated[
    float, typer.Option(help="Share of the change to put in force, 0 to 1.", metavar="0..1")
]
Allowance = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=VALUE",
        show_default=False,
        help="What it may cost: forget, prefix, neighbours, retain, kl or replacement.",
    ),
]
Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", show_default=False, help="Default: the latest."),
]


@with_flags
def forget(
    text: MaybeText = None,
    *,
    flags: Flags,
    many: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", show_default=False, help="CSV file, one request a line."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            show_default=False,
            help="With --from: all in one edit, by a Ray cluster or 'local'.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --ray: replicas of the model.")] = 2,
    image: Images = None,
    as_json: Json = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    strength: Strength = 1.0,
    budget: Allowance = None,
) -> int:
    """Forget what the text asks for. Plans, edits, checks, and rolls back what harms."""
    how: dict[str, Any] = {"strength": strength, "budget": budget_of(budget)}
    if (text is None) == (many is None):
        raise UsageError("Give either a text or --from FILE.")
    if image and many is not None:
        raise UsageError("--image goes with one text.", "Leave out --from.")
    if many is not None:
        # One by one or together, what would cost too much is done when the user said yes.
        how |= {"dry_run": dry_run, "yes" if ray is None else "accept": yes}
        return _forget_all(flags, many, ray, workers, as_json=as_json, **how)
    if ray is not None:
        raise UsageError("--ray is for many requests.", "Give them with --from FILE.")
    assert text is not None  # noqa: S101 - one of the two was given
    how |= {"dry_run": dry_run, "yes": yes, "images": image}
    return _operate(flags, text, "forget", as_json=as_json, **how)


def _forget_all(
    flags: Flags, file: Path, address: str | None, workers: int, *, as_json: bool, **how: Any
) -> int:
    """Every request of a file that its report does not have yet; with an address all at once."""
    from repair.cli import bulk, display

    requests, report = bulk.read_requests(file), bulk.Report(file.with_suffix(".report.csv"))
    waiting = [line for line, _ in requests if line not in report.done]
    with ExitStack() as stack:
        stages = stack.enter_context(display.Stages())
        session = stack.enter_context(flags.session())
        if address is None or not waiting:
            records = bulk.forget_all(session, requests, report, **how)
        else:
            fleet = stack.enter_context(_cluster(flags, session, address, workers))
            records = bulk.forget_together(session, requests, report, fleet, **how)
        for done, record in enumerate(records, 1):
            complain(f"{done}/{len(waiting)} line {record['line']}: {record['status']}")
            stages.doing(f"{done} of {len(waiting)} requests")
    found = [report.done[line] for line, _ in requests]
    healed = found.count("healed")
    if as_json:
        counts = {status: found.count(status) for status in sorted(set(found))}
        say_json({"requests": len(found), "report": str(report.path), "statuses": counts})
    else:
        say(f"{healed} of {len(found)} forgotten; {report.path} has a line for each")
    return 0 if healed == len(found) else 1


def _cluster(flags: Flags, session: Session, address: str, workers: int) -> Cluster:
    """Replicas of the session's patient, with its edits on them."""
    from repair.cluster import Cluster

    settings = flags.settings()
    return Cluster(
        address,
        workers,
        model=settings.model,
        how={name: getattr(settings, name) for name in ("revision", "dtype", "device")},
        preparation=session.preparation,
        active=session.patient.active,
    )


@with_flags
def correct(
    text: Text,
    *,
    flags: Flags,
    as_json: Json = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    budget: Allowance = None,
) -> int:
    """Replace a wrong fact by the one the text gives."""
    how: dict[str, Any] = {"budget": budget_of(budget), "dry_run": dry_run, "yes": yes}
    return _operate(flags, text, "correct", as_json=as_json, **how)


def budget_of(given: list[str] | None) -> Budget | None:
    """The default budget with the given parts replaced; None when none is given."""
    if not given:
        return None
    names = {field.name for field in fields(Budget)}
    parts: dict[str, float] = {}
    for item in given:
        name, _, value = item.partition("=")
        try:
            parts[name.strip()] = float(value)
        except ValueError:
            parts[name.strip()] = math.nan
        if name.strip() not in names or not parts[name.strip()] >= 0:
            raise UsageError(
                f"{item!r} is no part of a budget.",
                f"Write NAME=VALUE with a name of {', '.join(sorted(names))}.",
            )
    return Budget(**parts)


def _operate(
    flags: Flags,
    text: str,
    kind: Literal["forget", "correct"],
    *,
    as_json: bool,
    dry_run: bool,
    yes: bool,
    images: list[Path] | None = None,
    **how: Any,
) -> int:
    from repair.cli import display

    with display.Stages() as stages, flags.session(stages) as session:
        text = with_pictures(session, text, images)
        stages.doing("reading the request")
        outcome = session.request(text, dry_run=dry_run, yes=yes, kind=kind, **how)
        waiting = outcome.status == "needs_confirmation" and not dry_run
        may_ask = interactive() and not as_json
        if waiting and may_ask and display.confirmed(stages, outcome):
            outcome = session.request(text, yes=True, kind=kind, **how)
    if as_json:
        say_json(outcome.to_json())
    else:
        display.out.print(display.outcome(outcome))
    return 0 if outcome.status == "healed" else 1


@with_flags
def undo(ids: Ids = None, *, flags: Flags, as_json: Json = False) -> None:
    """Leave edits out again. The weights are exactly as if they had never been made."""
    with flags.session() as session:
        _tell("undone", session.undo(*(ids or ())), as_json)


@with_flags
def redo(ids: Ids = None, *, flags: Flags, as_json: Json = False) -> None:
    """Put undone edits back."""
    with flags.session() as session:
        _tell("redone", session.redo(*(ids or ())), as_json)


@with_flags
def strength(
    identity: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    share: Annotated[float, typer.Argument(metavar="0..1", show_default=False)],
    *,
    flags: Flags,
    as_json: Json = False,
) -> None:
    """Set how much of an edit is in force, from 0 (nothing) to 1 (all of it)."""
    with flags.session() as session:
        session.adjust(identity, share)
    if as_json:
        say_json({"edit": identity, "strength": share})
    else:
        say(f"edit {identity} is at {share:g}")


def _tell(what: str, ids: tuple[int, ...], as_json: bool) -> None:
    if as_json:
        say_json({what: list(ids)})
    else:
        named = ", ".join(map(str, ids))
        say(f"{what}: {named}" if ids else f"nothing {what}")


@with_flags
def history(*, flags: Flags, as_json: Json = False) -> None:
    """List the edits, active and undone."""
    with flags.session() as session:
        edits = session.history()
    if as_json:
        say_json({"edits": [edit.to_json() for edit in edits]})
        return
    from repair.cli import display

    display.out.print(display.history(edits))

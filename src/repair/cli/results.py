"""Commands for what edits leave behind: verify, audit, export."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from repair.cli.options import Flags, Json, with_flags
from repair.cli.output import say, say_json
from repair.errors import UsageError


class Format(str, Enum):
    """What an export is written as."""

    peft = "peft"
    merged = "merged"
    gguf = "gguf"


@with_flags
def verify(*, flags: Flags, as_json: Json = False) -> int:
    """Rerun the probes of all active edits. Exit code 1 when one gives its fact away."""
    from repair.cli import display

    with display.Stages() as stages, flags.session(stages) as session:
        stages.doing("verifying")
        record = session.verify()
    if as_json:
        say_json(record)
    elif record["edits"]:
        rows = [
            (str(e["edit"]), f"{e['recall']:.2f}", str(e["n"]), "ok" if e["passed"] else "fails")
            for e in record["edits"]
        ]
        display.out.print(display.checks(rows, "edit", "recall", "probes", ""))
    else:
        say("No active edits.")
    return 0 if record["passed"] else 1


@with_flags
def audit(
    edit: Annotated[
        str | None,
        typer.Argument(metavar="ID|FILE", show_default=False, help="Default: all edits."),
    ] = None,
    *,
    flags: Flags,
    check: Annotated[
        bool,
        typer.Option("--verify", help="Check the hash chain: the journal's, or a receipt FILE's."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show an edit's receipt. What was asked, changed and measured, never the secret."""
    if check:
        events = _verified(flags, edit)
        if as_json:
            say_json({"events": events, "chain": "intact"})
        else:
            say(f"intact: {events} events")
        return
    if edit is not None and not edit.isdigit():
        raise UsageError("An edit's id is a whole number.", "`repair history` lists them.")
    with flags.session() as session:
        receipt = session.audit(int(edit) if edit is not None else None)
    if as_json:
        say_json(receipt)
        return
    from repair.cli import display

    display.out.print(display.record(receipt))


def _verified(flags: Flags, file: str | None) -> int:
    """The number of events checked; needs no model, and for a receipt no ledger either."""
    from repair import journal
    from repair.ledger import Ledger

    if file is None:
        settings = flags.settings()
        with Ledger(settings.home, "any", settings.database) as ledger:
            return ledger.verify()
    try:
        receipt = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is no receipt.", "Give a file that the server gave.") from error
    return journal.check_receipt(receipt)


@with_flags
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    *,
    flags: Flags,
    kind: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.peft,
    as_json: Json = False,
) -> None:
    """Write the active edits for other programs. A PEFT adapter, or the merged model."""
    if kind is Format.gguf:
        raise UsageError("Exporting GGUF comes with a later version.", "Use peft or merged.")
    from repair.cli import display

    with display.Stages() as stages, flags.session() as session:
        stages.doing("writing")
        written = session.export(directory, kind.value)
    if as_json:
        say_json({"path": str(written), "format": kind.value})
    else:
        say(str(written))

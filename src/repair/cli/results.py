"""Commands for what edits leave behind: verify, audit, export."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

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
def verify(
    *,
    flags: Flags,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=False,
            help="Ask this OpenAI-compatible server; --model is then its name there.",
        ),
    ] = None,
    canaries: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default=False, help="Take the probes from an export's folder."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Rerun the probes of all active edits. Exit code 1 when one gives its fact away."""
    from repair.cli import display

    if endpoint is None and canaries is not None:
        raise UsageError("Canaries are for a server.", "Name it with --endpoint.")
    with display.Stages() as stages:
        stages.doing("verifying")
        if endpoint is not None:
            record = _at_endpoint(flags, endpoint, canaries)
        else:
            with flags.session(stages) as session:
                record = session.verify()
    if as_json:
        say_json(record)
    else:
        rows = [
            (str(e["edit"]), f"{e['recall']:.2f}", str(e["n"]), "ok" if e["passed"] else "fails")
            for e in record["edits"]
        ]
        kept = record.get("kept")
        if kept:
            fine = "ok" if kept["passed"] else "fails"
            rows.append(("what must stay", f"{kept['recall']:.2f}", str(kept["n"]), fine))
        if rows:
            display.out.print(display.checks(rows, "edit", "recall", "probes", ""))
        else:
            say("No active edits.")
    return 0 if record["passed"] else 1


def _at_endpoint(flags: Flags, url: str, folder: Path | None) -> dict[str, Any]:
    """Ask a server; without canaries, the probes of this home's active edits."""
    from repair.export import canaries
    from repair.export.endpoint import Endpoint
    from repair.vault import Vault

    if folder is not None:
        vault = Vault(flags.settings().home, create=False)
        asked = canaries.load(folder, vault)
    else:
        from repair.checkpoint import find_checkpoint
        from repair.ledger import Ledger

        # --model names the served model, so the edited one is the settings' own.
        edited = replace(flags, model=None).settings()
        checkpoint = find_checkpoint(edited.model, edited.revision)
        with Ledger(edited.home, checkpoint.content_hash()) as ledger:
            asked = canaries.of_active_edits(ledger)
            if not asked.edits:
                raise UsageError(
                    "There is no active edit to verify.", "Name the home that made it with --home."
                )
            vault = ledger.vault
    server = Endpoint(url, flags.model)
    found = canaries.check(asked, vault, server.answers)
    return {**found, "endpoint": server.root, "model": server.model}


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
    max_rank: Annotated[
        int | None,
        typer.Option(
            min=1, show_default=False, help="A server's limit; past it, edits are recompressed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the active edits for other programs. PEFT adapter, merged model, or GGUF."""
    from repair.cli import display
    from repair.export import folder

    with display.Stages() as stages, flags.session() as session:
        stages.doing("writing")
        written = folder.export(
            session.patient, directory, kind.value, ledger=session.ledger, max_rank=max_rank
        )
    if as_json:
        say_json(written)
        return
    say(written["path"])
    if written["error"]:
        lost = f"{written['error']:.2%} of a layer's change at most"
        say(f"rank {written['rank']} instead of {written['exact_rank']}; lost: {lost}")

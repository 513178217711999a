"""``repair serve`` and ``repair keys``: what the server needs from flags; serves nothing itself."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repair.cli.options import Flags, Json, with_flags
from repair.cli.output import complain, say, say_json
from repair.errors import UsageError

if TYPE_CHECKING:
    from repair.people import People


class EngineKind(str, Enum):
    """What generates the answers."""

    transformers = "transformers"
    vllm = "vllm"


@with_flags
def serve(
    *,
    flags: Flags,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    engine: Annotated[
        EngineKind, typer.Option(help="Who answers: this process, or servers like vLLM.")
    ] = EngineKind.transformers,
    engine_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", show_default=False, help="One for each vLLM replica."),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Trusted facts that a curator may have answers held to.",
        ),
    ] = None,
) -> None:
    """Serve an OpenAI-compatible API and the web page. Ctrl-C stops it."""
    from repair.cli import display
    from repair.factcheck import read_facts
    from repair.patient import Patient
    from repair.people import Policy as PeoplePolicy
    from repair.policy import Policy
    from repair.server.access import is_loopback
    from repair.server.app import create_app
    from repair.server.replica import Replica
    from repair.server.run import listen, run
    from repair.server.service import open_service

    if (engine is EngineKind.vllm) != bool(engine_url):
        raise UsageError("--engine vllm and --engine-url go together.", "Give both or none.")
    replicas = [Replica(url, os.environ.get("OPENAI_API_KEY")) for url in engine_url or ()]
    settings, trusted = flags.settings(), read_facts(facts) if facts else ()
    rules, people = Policy.load(settings.policy), PeoplePolicy.read(settings.policy)
    socket = listen(host, port)
    with display.Stages():
        patient = Patient.load(
            settings.model,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
        )
        service = open_service(
            patient,
            settings.home,
            database=settings.database,
            policy=people,
            rules=rules,
            local=is_loopback(host),
            replicas=replicas,
            facts=trusted,
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    shown = f"[{host}]" if ":" in host else host
    complain(f"Serving {patient.name} at http://{shown}:{socket.getsockname()[1]}")
    try:
        run(create_app(service), socket)
    finally:
        service.close()


@with_flags
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    *,
    flags: Flags,
    role: Annotated[str, typer.Option(help="reader, member, curator or admin.")] = "member",
    as_json: Json = False,
) -> None:
    """Give a person a key. It is shown once and kept only as a hash."""
    with _people(flags) as people:
        key = people.add(name, role)
    if as_json:
        say_json({"name": name, "role": role, "key": key})
    else:
        say(key)


@with_flags
def everyone(*, flags: Flags, as_json: Json = False) -> None:
    """List who has a key, and their roles."""
    with _people(flags) as people:
        known = people.all()
    if as_json:
        say_json({"people": known})
        return
    from repair.cli import display

    rows = [(p["name"], p["role"], p["at"], "" if p["active"] else "revoked") for p in known]
    display.out.print(display.table(rows, "name", "role", "since", ""))


@with_flags
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    *,
    flags: Flags,
    as_json: Json = False,
) -> None:
    """Shut a person out. Their edits stay."""
    with _people(flags) as people:
        people.revoke(name)
    if as_json:
        say_json({"revoked": name})
    else:
        say(f"revoked: {name}")


def _people(flags: Flags) -> closing[People]:
    from repair.people import People

    settings = flags.settings()
    return closing(People(settings.home, settings.database))

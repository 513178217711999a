"""Commands that look before anything changes: detect, plan, facts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repair.cli.options import Flags, Json, Text, with_flags
from repair.cli.output import say, say_json
from repair.errors import UsageError
from repair.types import Message, Split, Task

if TYPE_CHECKING:
    from repair.readers import Reader

_MEND = "Mend it and go on from there."


def detect(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", show_default=False, help="One user turn.")
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help='Lines {"text": …, "history": [{"role", "content"} …]}; - is standard input.',
        ),
    ] = None,
    as_json: Json = False,
    reader: Annotated[
        str, typer.Option("--watchdog", metavar="embedded|hf:ID|openai:URL", help="Who reads.")
    ] = "embedded",
) -> None:
    """Say what a text asks for: forget, correct, restore. Nothing is changed."""
    if (text is None) == (jsonl is None):
        raise UsageError("Give either a text or --jsonl FILE.")
    watchdog: Reader
    if reader == "embedded":
        from repair.watchdog import Watchdog

        watchdog = Watchdog.load()
    else:
        from repair.readers import open_reader

        watchdog = open_reader(reader)
    if jsonl is not None:
        for turn, history in _read_turns(jsonl):
            say_json(watchdog.read(turn, history).to_json())
    elif text is not None:
        _detect_one(watchdog, text, as_json)


def _detect_one(watchdog: Reader, text: str, as_json: bool) -> None:
    intent = watchdog.read(text, ())
    if as_json:
        say_json(intent.to_json())
        return
    from repair.cli import display

    display.out.print(display.intent(intent))


def _read_turns(path: Path) -> Iterator[tuple[str, list[Message]]]:
    """The turns of a JSON Lines file, one at a time; blank lines are passed over.

    Raises:
        UsageError: no such file, or a line that is not what it should be, with its number.
    """
    if str(path) == "-":
        yield from _parse_turns(sys.stdin.buffer)
        return
    if not path.exists() or path.is_dir():
        raise UsageError(f"There is no file {path}.")
    with path.open("rb") as lines:
        yield from _parse_turns(lines)


def _parse_turns(lines: Iterable[bytes]) -> Iterator[tuple[str, list[Message]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UsageError(f"Line {number} is not JSON.", _MEND) from error
        fault = _fault(record)
        if fault:
            raise UsageError(f"Line {number}: {fault}.", _MEND)
        yield record["text"], record.get("history") or []


def _fault(record: Any) -> str:
    """What is wrong with one line's record; empty when nothing is."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return 'it needs an object with a string "text"'
    history = record.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in history
    ):
        return '"history" must be a list of {"role", "content"}'
    return ""


@with_flags
def plan(
    text: Text,
    *,
    flags: Flags,
    as_json: Json = False,
    explain: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write it as an HTML page."),
    ] = None,
) -> None:
    """Show what a request would edit and check. Nothing is changed."""
    from repair.cli import display

    with display.Stages() as stages, flags.session(stages) as session:
        stages.doing("planning")
        record = session.plan(text, explain=explain is not None)
    if explain is not None:
        from repair.explain import page

        explain.write_text(page(record), encoding="utf-8")
        record = {k: v for k, v in record.items() if k not in ("distances", "tokens")}
        record["page"] = str(explain)
    if as_json:
        say_json(record)
    else:
        display.out.print(display.record(record))


def facts(
    task: Annotated[Task | None, typer.Option(help="Only this task.", show_default=False)] = None,
    split: Annotated[
        Split | None, typer.Option(help="Only this split.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List what the embedded model was taught."""
    from repair.world import facts as taught

    known = taught(task, split)
    if as_json:
        say_json({"facts": [fact.to_json() for fact in known]})
        return
    from repair.cli import display

    display.out.print(display.facts(known))
    say(f"{len(known)} facts")

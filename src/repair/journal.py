"""The hash-chained journal in the database: appends to it and checks it; knows no models.

Each event's hash covers the hash before it, so nothing in the past can be changed unnoticed.
A receipt carries whole events, so its part of the chain can be checked without the database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from repair import records, schema
from repair.errors import LedgerCorrupted
from repair.types import EditSummary


def append(connection: Connection, model: str, event: str, details: Mapping[str, Any]) -> None:
    """Add one event at the end of the chain; the caller's transaction keeps others out."""
    table = schema.journal
    last = connection.execute(select(table).order_by(table.c.id.desc()).limit(1)).first()
    row = {
        "id": 1 if last is None else last.id + 1,
        "model": model,
        "event": event,
        "at": records.now(),
        "details": records.canonical(details),
    }
    row["hash"] = records.chained(records.GENESIS if last is None else last.hash, row)
    connection.execute(insert(table).values(row))


def verify(connection: Connection, home: Path, edits: Iterable[Row[Any]]) -> int:
    """Compute the chain of all models again and hold the edits against it.

    Args:
        edits: rows with id, owner, active, strength and the factors' data.

    Returns:
        The number of events checked.

    Raises:
        LedgerCorrupted: names the first event, or the edit, that is not as it was.
    """
    previous, count = records.GENESIS, 0
    known: dict[int, records.State] = {}
    for row in connection.execute(select(schema.journal).order_by(schema.journal.c.id)):
        count += 1
        if row.id != count or row.hash != records.chained(previous, row._asdict()):
            raise schema.corrupted(home, f"event {count} of its journal was changed")
        previous = row.hash
        event = records.event(row)
        for identity in event["edits"]:
            known[identity] = records.replayed(event, known.get(identity))
    for row in edits:
        state = (row.active, row.strength, hashlib.sha256(row.data).hexdigest(), row.owner)
        if known.pop(row.id, None) != state:
            raise schema.corrupted(home, f"edit {row.id} is not as journalled")
    if known:
        raise schema.corrupted(home, f"edit {min(known)} is missing")
    return count


def events(connection: Connection, model: str) -> Iterator[dict[str, Any]]:
    """One model's events in order: id, event, at, edits, details, hash."""
    table = schema.journal
    query = select(table).where(table.c.model == model).order_by(table.c.id)
    return (records.event(row) for row in connection.execute(query))


def trail(connection: Connection, model: str, edit: int) -> list[dict[str, Any]]:
    """The events of one edit with the hash that each is chained to, to be checked alone."""
    table = schema.journal
    found = []
    for event in [e for e in events(connection, model) if edit in e["edits"]]:
        before = select(table.c.hash).where(table.c.id == event["id"] - 1)
        found.append({**event, "previous": connection.scalar(before) or records.GENESIS})
    return found


def receipt(
    model: str, summary: EditSummary, probes: Mapping[str, int], trail: list[dict[str, Any]]
) -> dict[str, Any]:
    """What an edit was, changed and measured, ready for JSON; ``probes`` counts each kind."""
    details = trail[0]["details"]
    return {
        **summary.to_json(),
        **{name: details[name] for name in ("redirect", "measures", "versions")},
        "probes": dict(sorted(probes.items())),
        "factors": {"sha256": details["sha256"]},
        "model": model,
        "journal": trail,
    }


def check_receipt(receipt: Mapping[str, Any]) -> int:
    """Compute the hashes of a receipt's events again, without any database.

    Returns:
        The number of events checked.

    Raises:
        LedgerCorrupted: an event was changed, or what the receipt says is not in its events.
    """
    wrong = LedgerCorrupted(
        "The receipt was changed after it was written.", "Download it again and compare."
    )
    state: records.State | None = None
    try:
        events = receipt["journal"]
        for event in events:
            details = {**event["details"], "edits": event["edits"]}
            row = {
                **{name: event[name] for name in ("id", "event")},
                "model": receipt["model"],
                "at": datetime.fromisoformat(event["at"].replace("Z", "+00:00")),
                "details": records.canonical(details),
            }
            if records.chained(event["previous"], row) != event["hash"]:
                raise wrong
            if receipt["id"] not in event["edits"]:
                raise wrong
            state = records.replayed(event, state)
        first = events[0]["details"]
        told = {name: receipt[name] for name in ("redirect", "measures", "versions")}
        if any(first[name] != value for name, value in told.items()) or state is None:
            raise wrong
        if (state[1], state[2]) != (receipt["strength"], receipt["factors"]["sha256"]):
            raise wrong
        if state[0] != (receipt["state"] == "active"):
            raise wrong
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise wrong from error
    return len(events)

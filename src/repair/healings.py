"""A healing holds only while the edits that it was made over hold.

It puts back what they hurt and goes over what they left, so that it also holds a little of what
they took: with one of them undone, it would stand in the way of what is to come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from repair import journal
from repair.errors import UsageError

KIND = "heal"


def over(edits: Mapping[int, Row[Any]], undone: Sequence[int]) -> list[int]:
    """The active healings that came after one of these edits of the same owner.

    Args:
        edits: id, kind, active and owner of every edit that is seen, by id.
    """
    first: dict[str, int] = {}
    for identity in undone:
        owner = edits[identity].owner
        first[owner] = min(identity, first.get(owner, identity))
    return [
        row.id
        for row in edits.values()
        if row.kind == KIND
        and row.active
        and row.id not in undone
        and row.id > first.get(row.owner, row.id)
    ]


def check(
    connection: Connection, model: str, edits: Mapping[int, Row[Any]], redone: Sequence[int]
) -> None:
    """Refuse to put a healing back in force without the edits under it.

    Raises:
        UsageError: one of them is undone.
    """
    for identity in redone:
        if edits[identity].kind != KIND:
            continue
        made = journal.trail(connection, model, identity)[0]["details"]["measures"]
        for under in made.get("over", ()):
            if under not in redone and not edits[under].active:
                raise UsageError(
                    f"Healing {identity} was made over edit {under}, which is undone.",
                    "Redo that one as well, or run `repair heal` again.",
                )

"""Who may do what: people, their roles, and digests of their keys; knows no HTTP, no edits.

A key is 32 random bytes, so one round of SHA-256 is enough to keep it: there is nothing
to guess.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, insert, select, update

from repair import records, schema
from repair.errors import UsageError
from repair.ledger import Ledger

Role = Literal["reader", "member", "curator", "admin"]
ROLES: tuple[Role, ...] = ("reader", "member", "curator", "admin")
PREFIX = "rk-"
# What the journal calls the events of keys, which belong to no model.
JOURNAL = "people"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_LIST = "`repair keys list` shows them."


@dataclass(frozen=True)
class Person:
    """Who asks. The empty name is somebody without a key."""

    name: str = ""
    role: Role = "reader"

    def may(self, role: Role) -> bool:
        """Whether the person has this role or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Policy(BaseModel):
    """The section ``[people]`` of a policy file (TOML).

    ``anonymous`` is the role of who asks without a key through the loopback address,
    ``stranger`` that of who asks without one from elsewhere, None being shut out; a stranger
    never edits. With ``approval`` a curator's edit acts only for them until a second curator
    publishes it. Limits are per person, or per address for those without a key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    anonymous: Role | None = "curator"
    stranger: Literal["reader"] | None = None
    approval: bool = False
    requests_per_minute: int = Field(default=1200, ge=1)
    edits_per_minute: int = Field(default=120, ge=1)

    @classmethod
    def read(cls, path: Path | None) -> Policy:
        """The policy in a file; the default one without a file or section.

        Raises:
            UsageError: no such file, no TOML, or a value that is not allowed.
        """
        if path is None:
            return cls()
        toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
        try:
            given = toml.loads(path.read_text(encoding="utf-8")).get("people", {})
            # TOML has no null, so nobody is written as none.
            named = {name: None if value == "none" else value for name, value in given.items()}
            return cls.model_validate(named)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{path}: people.{where}: {first['msg']}.", "Mend it.") from error
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"The policy {path} cannot be read ({error}).", "Mend it.") from error


class People:
    """The people of one home or database, and the journal of their keys.

    Every method raises what `Ledger` raises where the storage fails.
    """

    def __init__(self, home: Path, database: str | None = None) -> None:
        self._ledger = Ledger(home, JOURNAL, database)

    def close(self) -> None:
        """Close the database."""
        self._ledger.close()

    def add(self, name: str, role: str) -> str:
        """Give a new person a key, which is returned and nowhere kept.

        Raises:
            UsageError: no such role, or a name that is taken or not a short name.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                "A person's name is lower case, without spaces, up to 40 letters.", "Shorten it."
            )
        if role not in ROLES:
            raise UsageError(f"There is no role {role!r}.", f"Choose from {', '.join(ROLES)}.")
        key = PREFIX + secrets.token_urlsafe(32)
        row = {"name": name, "role": role, "digest": digest(key), "at": records.now()}
        with self._writing() as connection:
            known = select(schema.people.c.name).where(schema.people.c.name == name)
            if connection.scalar(known) is not None:
                # A revoked name stays taken, for the journal and edits may name it.
                raise UsageError(f"There is a key of {name} already.", _LIST)
            connection.execute(insert(schema.people).values(**row, active=True))
        self._ledger.note("key-added", {"name": name, "role": role})
        return key

    def revoke(self, name: str) -> None:
        """Shut a person out from now on; their edits stay.

        Raises:
            UsageError: nobody of this name has a key that is in force.
        """
        table = schema.people
        mine = (table.c.name == name) & table.c.active
        with self._writing() as connection:
            done = connection.execute(update(table).where(mine).values(active=False))
            if done.rowcount == 0:
                raise UsageError("There is no key in force of this name.", _LIST)
        self._ledger.note("key-revoked", {"name": name})

    def all(self) -> list[dict[str, Any]]:
        """Everybody who has or had a key, by name."""
        with self._ledger.transaction() as connection:
            rows = connection.execute(select(schema.people).order_by(schema.people.c.name)).all()
        return [
            {"name": r.name, "role": r.role, "at": records.iso(r.at), "active": r.active}
            for r in rows
        ]

    def who(self, key: str) -> Person | None:
        """Whose key this is, if it is in force."""
        table = schema.people
        query = select(table).where((table.c.digest == digest(key)) & table.c.active)
        with self._ledger.transaction() as connection:
            row = connection.execute(query).first()
        return None if row is None else Person(row.name, row.role)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._ledger.lock(), self._ledger.transaction(write=True) as connection:
            yield connection


def digest(key: str) -> str:
    """What is kept of a key: its SHA-256 in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()

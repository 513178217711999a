"""The append-only record of a home's edits: undo, redo, receipts, and a hash chain.

Knows low-rank factors, keyed hashes and sealed questions; knows neither models nor the
plain text of what was forgotten, and never touches weights. Importing it needs no torch.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, insert, select, update

from repair import healings, journal, postgres, records, schema
from repair.errors import NotAllowed, UnknownEdit, UsageError
from repair.types import Edit, EditSummary, LowRankUpdate, Probe, SealedProbe
from repair.vault import Vault

Lock = FileLock | postgres.AdvisoryLock
T = TypeVar("T")

_LIST_REMEDY = "`repair history` lists them."
_MODEL = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Ledger(AbstractContextManager["Ledger"]):
    """The edits of one model in one home; many models and processes may share a home.

    Every method raises LedgerCorrupted, LedgerBusy, DiskFull or EnvironmentProblem where
    the storage fails; a method that fails has changed nothing.

    Args:
        home: the folder of the state, made when missing; holds ledger.db, key and lock.
        model_hash: what tells the model's weights from others, up to 128 letters, digits
            or ``._:-``.
        database: where the tables are instead of ledger.db, as postgresql+psycopg://….

    Raises:
        UsageError: ``model_hash`` or ``database`` has another form.
    """

    owner, actor, shared = "", "", True

    def __init__(self, home: Path, model_hash: str, database: str | None = None) -> None:
        self.home = home.absolute()
        if not _MODEL.fullmatch(model_hash):
            raise UsageError("The model's hash has characters that no hash has.")
        self.model = model_hash
        with schema.translated(self.home):
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A singleton counts nested holds of one thread, also through several ledgers.
        self._lock: Lock = FileLock(self.home / "lock", is_singleton=True)
        if database is None:
            self._engine = schema.open_engine(self.home, self.lock)
        else:
            self._engine, self._lock = postgres.open_engine(database, self.home)
        self._dispose = weakref.finalize(self, self._engine.dispose)

    def close(self) -> None:
        """Close the database; closing twice is harmless."""
        self._dispose()

    def __exit__(self, *_: object) -> None:
        self.close()

    def view(self, owner: str, *, shared: bool = False, actor: str = "", model: str = "") -> Ledger:
        """The same ledger as one person sees it: everyone's edits and their own.

        Args:
            owner: whose edits are seen beside everyone's; what is committed is theirs.
            shared: everyone's edits may be changed, and what is committed is everyone's.
            actor: the name that the journal gives to what is done through this view.
            model: the hash of another model whose edits are seen; empty for this one.
        """
        seen = copy.copy(self)
        seen.owner, seen.shared, seen.actor, seen.model = owner, shared, actor, model or self.model
        return seen

    @contextmanager
    def lock(self, timeout: float = 10.0) -> Iterator[None]:
        """Keep every other process and thread from writing; may be nested in one thread.

        Args:
            timeout: seconds to wait for another holder.

        Raises:
            LedgerBusy: somebody else still holds it after ``timeout``.
        """
        with schema.translated(self.home):
            try:
                self._lock.acquire(timeout=timeout)
            except Timeout:
                raise schema.busy(self.home) from None
        try:
            yield
        finally:
            self._lock.release()

    @cached_property
    def vault(self) -> Vault:
        """The home's key, made with the first edit.

        Raises:
            LedgerCorrupted: the key is missing or is not the one the edits were made with.
        """
        name = schema.meta.c.name == "key"
        with self.lock():
            with self.transaction() as connection:
                known = connection.scalar(select(schema.meta.c.value).where(name))
            vault = Vault(self.home, create=known is None)
            if known is None:
                with self.transaction(write=True) as connection:
                    row = {"name": "key", "value": vault.fingerprint}
                    connection.execute(insert(schema.meta).values(row))
            elif known != vault.fingerprint:
                raise schema.corrupted(self.home, "its key is not the one it was made with")
        return vault

    def commit(
        self,
        *,
        kind: str,
        method: str,
        redirect: float,
        updates: Sequence[LowRankUpdate],
        targets: Sequence[str],
        probes: Sequence[Probe],
        measures: Mapping[str, Any],
        tokenise: Callable[[str], Sequence[str]],
        strength: float = 1.0,
    ) -> int:
        """Store one edit, active, in one transaction; durable when this returns.

        Args:
            kind, method: names, as forget and stamp-lr.
            redirect: its factor.
            updates: ΔW of each layer, kept bit for bit in fp32.
            targets: plain texts, kept only as keyed hashes.
            probes: kept as sealed questions and hashed answers, but none with a prefix.
            measures: numbers and names of enumerations only.
            tokenise: gives the words that recall compares.
            strength: the share of the change that is in force, from 0 to 1.

        Returns the edit's id, never used again. Raises UsageError for no updates, factors that
        do not fit, or text among the measures; NotFinite for a factor that is.
        """
        blob, layers, rank = records.pack(updates)
        row = {
            "kind": records.name_of(kind, "kind"),
            "method": records.name_of(method, "method"),
            "rank": rank,
            "layers": layers,
            "targets": [self.vault.tag(target) for target in targets],
        }
        details = {
            **row,
            "redirect": records.numbers_only(redirect),
            "strength": records.share(strength),
            "measures": records.numbers_only(measures),
            "sha256": hashlib.sha256(blob).hexdigest(),
            "versions": records.versions(),
        }
        owner = "" if self.shared else self.owner
        details |= {"owner": owner} if owner else {}
        edit = {**row, "model": self.model, "at": records.now(), "active": True, "owner": owner}
        edit |= {name: records.canonical(row[name]) for name in ("layers", "targets")}
        edit |= {"strength": strength}
        sealed = records.sealed(self.vault, probes, tokenise)
        with self.lock(), self.transaction(write=True) as connection:
            added = insert(schema.edits).values(edit).returning(schema.edits.c.id)
            identity = int(connection.execute(added).scalar_one())
            stored = {"edit": identity, "sha256": details["sha256"], "data": blob}
            connection.execute(insert(schema.factors).values(stored))
            for probe in sealed:
                connection.execute(insert(schema.probes).values({"edit": identity, **probe}))
            self._append(connection, "commit", {"edits": [identity], **details})
        return identity

    def active(self, *, own: bool = False) -> tuple[Edit, ...]:
        """The edits in force that this view sees, by ascending id; ``own``: the owner's alone."""
        where = self._seen() & schema.edits.c.active
        if own:
            where &= schema.edits.c.owner == self.owner
        return self._edits(where)

    def later(self, identity: int) -> tuple[Edit, ...]:
        """Every edit of this model with a higher id: undone ones and other people's, too."""
        return self._edits((schema.edits.c.model == self.model) & (schema.edits.c.id > identity))

    def publish(self, identity: int) -> None:
        """Make a person's edit everyone's; it stays active or undone as it was.

        Raises:
            UnknownEdit: this model has no such edit.
            UsageError: it is everyone's already.
        """
        mine = schema.edits.c.id == identity
        with self.lock(), self.transaction(write=True) as connection:
            if not self.owner_of(identity):
                raise UsageError(f"Edit {identity} is everyone's already.", _LIST_REMEDY)
            connection.execute(update(schema.edits).where(mine).values(owner=""))
            self._append(connection, "publish", {"edits": [identity], "owner": ""})

    def owner_of(self, identity: int) -> str:
        """Whose an edit is, also one that this view does not see; errors as in `edit`."""
        table = schema.edits.c
        which = (table.id == identity) & (table.model == self.model)
        with self.transaction() as connection:
            owner = connection.scalar(select(table.owner).where(which))
        if owner is None:
            raise _unknown(identity)
        return str(owner)

    def edit(self, identity: int) -> Edit:
        """One edit, in force or undone.

        Raises:
            UnknownEdit: this model has no such edit.
        """
        with self.transaction() as connection:
            self._summary_row(connection, identity)
        return self._edits(schema.edits.c.id == identity)[0]

    def undo(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Take edits out of force, all or none of them, and healings made over them.

        Returns all that were undone.

        Raises:
            UnknownEdit: this model has no such edit.
            UsageError: no id, or an edit is already undone.
        """
        return self._switch(ids, active=False)

    def redo(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Put undone edits back in force, all or none; errors as in `undo`, and UsageError for
        a healing over an edit that is undone."""
        return self._switch(ids, active=True)

    def adjust(self, identity: int, strength: float) -> None:
        """Set the share of an edit that is in force, from 0 to 1; the factors stay.

        Raises:
            UnknownEdit: this model has no such edit.
            UsageError: a number outside 0 to 1.
        """
        change = update(schema.edits).where(schema.edits.c.id == identity)
        with self.lock(), self.transaction(write=True) as connection:
            self._may_change(identity, self._summary_row(connection, identity).owner)
            connection.execute(change.values(strength=records.share(strength)))
            self._append(connection, "adjust", {"edits": [identity], "strength": strength})

    def history(self) -> tuple[EditSummary, ...]:
        """Every edit that this view sees, by ascending id; targets as keyed hashes."""
        query = select(schema.edits).where(self._seen()).order_by(schema.edits.c.id)
        with self.transaction() as connection:
            return tuple(records.summary(row) for row in connection.execute(query))

    def receipt(self, identity: int) -> dict[str, Any]:
        """What an edit was, changed and measured, ready for JSON and without the secret.

        Raises:
            UnknownEdit: this model has no such edit.
        """
        kinds = select(schema.probes.c.kind).where(schema.probes.c.edit == identity)
        with self.transaction() as connection:
            summary = records.summary(self._summary_row(connection, identity))
            counts = Counter(connection.scalars(kinds))
            trail = journal.trail(connection, self.model, identity)
        if not trail:
            raise schema.corrupted(self.home, f"the journal does not know edit {identity}")
        return journal.receipt(self.model, summary, counts, trail)

    def probes(self, identity: int) -> tuple[SealedProbe, ...]:
        """The probes to check an edit with, in the order of the commit.

        Raises:
            UnknownEdit: this model has no such edit.
            LedgerCorrupted: the key does not open them.
        """
        table = schema.probes
        query = select(table).where(table.c.edit == identity).order_by(table.c.position)
        with self.transaction() as connection:
            self._summary_row(connection, identity)
            rows = connection.execute(query).all()
        with schema.translated(self.home):
            return tuple(
                SealedProbe(row.kind, self.vault.open(row.question), tuple(json.loads(row.words)))
                for row in rows
            )

    def note(self, event: str, measures: Mapping[str, Any]) -> None:
        """Journal something that changed no edit, as rolled_back or refused.

        Raises:
            UsageError: ``event`` is no name, or there is text among the measures.
        """
        name, numbers = records.name_of(event, "event"), records.numbers_only(measures)
        with self.lock(), self.transaction(write=True) as connection:
            self._append(connection, name, {"edits": [], "measures": numbers})

    def journal(self) -> tuple[dict[str, Any], ...]:
        """This model's events in order: id, event, at, edits, details, hash."""
        with self.transaction() as connection:
            return tuple(journal.events(connection, self.model))

    def state_token(self) -> int:
        """The id of this model's last event, 0 before the first; grows with every change."""
        table = schema.journal
        query = select(func.max(table.c.id)).where(table.c.model == self.model)
        with self.transaction() as connection:
            return connection.scalar(query) or 0

    def settled(self, read: Callable[[int], T]) -> tuple[int, T]:
        """A state's token and what ``read`` gives for it; read again if it changed meanwhile."""
        while True:
            token = self.state_token()
            found = read(token)
            if token == self.state_token():
                return token, found

    def verify(self) -> int:
        """Compute the hash chain of all models again and hold the edits against it.

        Returns the number of events; errors as in `journal.verify`."""
        with self.transaction() as connection:
            return journal.verify(connection, self.home, connection.execute(schema.with_factors()))

    def transaction(self, *, write: bool = False) -> AbstractContextManager[Connection]:
        """One transaction on the tables: all of it or nothing."""
        return schema.transaction(self._engine, self.home, write=write)

    def _append(self, connection: Connection, event: str, details: Mapping[str, Any]) -> None:
        by = {"by": self.actor} if self.actor else {}
        journal.append(connection, self.model, event, {**details, **by})

    def _switch(self, ids: Sequence[int], *, active: bool) -> tuple[int, ...]:
        verb, state = ("redo", "active") if active else ("undo", "undone")
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            raise UsageError(f"Name at least one edit to {verb}.", _LIST_REMEDY)
        table = schema.edits
        states = select(table.c.id, table.c.kind, table.c.active, table.c.owner).where(self._seen())
        change = update(table).where(table.c.id == bindparam("edit")).values(active=active)
        with self.lock(), self.transaction(write=True) as connection:
            now: dict[int, Any] = {row.id: row for row in connection.execute(states)}
            for identity in wanted:
                if identity not in now:
                    raise _unknown(identity)
                self._may_change(identity, now[identity].owner)
                if now[identity].active == active:
                    raise UsageError(f"Edit {identity} is already {state}.", _LIST_REMEDY)
            if active:
                healings.check(connection, self.model, now, wanted)
            else:
                wanted += healings.over(now, wanted)
            connection.execute(change, [{"edit": identity} for identity in wanted])
            self._append(connection, verb, {"edits": wanted})
        return tuple(wanted)

    def _seen(self) -> ColumnElement[bool]:
        table = schema.edits.c
        return (table.model == self.model) & table.owner.in_(["", self.owner])

    def _may_change(self, identity: int, owner: str) -> None:
        if not owner and not self.shared:
            raise NotAllowed(f"Edit {identity} is everyone's.", "Ask a curator to change it.")

    def _summary_row(self, connection: Connection, identity: int) -> Row[Any]:
        # A number that SQL cannot hold is an edit that does not exist, not a fault.
        if 0 < identity < 2**31:
            where = (schema.edits.c.id == identity) & self._seen()
            row = connection.execute(select(schema.edits).where(where)).first()
            if row is not None:
                return row
        raise _unknown(identity)

    def _edits(self, where: ColumnElement[bool]) -> tuple[Edit, ...]:
        with self.transaction() as connection:
            rows = connection.execute(schema.with_factors().where(where)).all()
        return tuple(self._edit(row) for row in rows)

    def _edit(self, row: Row[Any]) -> Edit:
        if hashlib.sha256(row.data).hexdigest() != row.sha256:
            raise schema.corrupted(self.home, f"the factors of edit {row.id} were changed")
        return Edit(row.id, records.unpack(row.data)).at(row.strength)


def _unknown(identity: int) -> UnknownEdit:
    return UnknownEdit(f"There is no edit {identity}.", _LIST_REMEDY)

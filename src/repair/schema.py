"""The ledger's tables, and how a database of them is made, opened and brought up to date.

Knows SQL and the file; knows neither keys nor what an edit means. Types are portable, so
that an engine of another database can take SQLite's place.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from repair.errors import (
    DiskFull,
    EnvironmentProblem,
    LedgerBusy,
    LedgerCorrupted,
    RepairError,
)
from repair.vault import storage_problem, sync_directory

REVISION = "0002"
"""The newest migration; a test holds it equal to the scripts' head."""

BUSY_SECONDS = 10.0

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)

edits = Table(
    "edits",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False, index=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("method", String(40), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("layers", Text, nullable=False),
    Column("targets", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("strength", Float, nullable=False),
    Column("owner", String(40), nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

# The factors lie apart because an UPDATE of a row in SQLite writes the whole row again,
# and an undo should not rewrite megabytes.
factors = Table(
    "factors",
    metadata,
    Column("edit", Integer, ForeignKey("edits.id"), primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False),
    Column("data", LargeBinary, nullable=False),
)

probes = Table(
    "probes",
    metadata,
    Column("edit", Integer, ForeignKey("edits.id"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(40), nullable=False),
    Column("question", LargeBinary, nullable=False),
    Column("words", Text, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("model", String(128), nullable=False),
    Column("event", String(40), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("details", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_journal_model_id", "model", "id"),
)

# Who may ask a server, by the digest of a key that is nowhere kept.
people = Table(
    "people",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("role", String(40), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("active", Boolean, nullable=False),
)


def with_factors() -> Select[Any]:
    """Edits with their factors, by ascending id."""
    which = (edits.c.id, edits.c.active, edits.c.strength, edits.c.owner)
    query = select(*which, factors.c.sha256, factors.c.data)
    return query.where(edits.c.id == factors.c.edit).order_by(edits.c.id)


def corrupted(home: Path, reason: str) -> LedgerCorrupted:
    """The error for a ledger that cannot be trusted; nothing of it is ever removed."""
    return LedgerCorrupted(
        f"The ledger in {home} is damaged: {reason}.",
        "Nothing was deleted; restore the folder from a backup, or move it away to begin anew.",
    )


def busy(home: Path) -> LedgerBusy:
    """The error for a ledger that another process is writing to."""
    return LedgerBusy(
        f"Another process is working on the ledger in {home}.",
        "Wait until it has finished, or choose another folder with --home.",
    )


def _database_problem(home: Path, error: DBAPIError | sqlite3.Error) -> RepairError:
    # Python 3.10 gives no SQLite error codes, only SQLite's fixed English messages.
    reason = str(error.orig if isinstance(error, DBAPIError) else error)
    if "disk is full" in reason or "disk I/O error" in reason:
        return DiskFull(
            f"The ledger in {home} could not be written ({reason}).",
            "Free some space and try again; what was stored before is still there.",
        )
    if "locked" in reason:
        return busy(home)
    if isinstance(error, DBAPIError) and not isinstance(error.orig, sqlite3.Error):
        return EnvironmentProblem(
            f"The database cannot be used ({' '.join(reason.split())[:200]}).",
            "Check its address and whether it runs.",
        )
    if "readonly" in reason or "unable to open" in reason or "permission" in reason:
        return EnvironmentProblem(
            f"The ledger in {home} cannot be opened ({reason}).",
            "Check the folder's permissions, or choose another folder with --home.",
        )
    return corrupted(home, reason)


@contextmanager
def translated(home: Path) -> Iterator[None]:
    """Turn what the database and the file system raise into errors for the user.

    Raises:
        LedgerCorrupted: not a database, damaged, or its rows do not decode.
        LedgerBusy: another process holds the database for longer than `BUSY_SECONDS`.
        DiskFull: it could not be written; the transaction left no trace.
        EnvironmentProblem: it may not be read or written.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise _database_problem(home, error) from error
    except OSError as error:
        raise storage_problem(home, error) from error
    except ValueError as error:
        # A date or a JSON text that does not parse was not written by this program.
        raise corrupted(home, "a row cannot be read") from error


@contextmanager
def transaction(engine: Engine, home: Path, *, write: bool) -> Iterator[Connection]:
    """One transaction: all of it or nothing; errors as in `translated`."""
    with (
        translated(home),
        engine.connect().execution_options(write=write) as connection,
        connection.begin(),
    ):
        yield connection


def _engine(path: Path) -> Engine:
    """An engine whose transactions are real ones, durable when they return."""
    # Parameters stay out of error texts, so that a traceback shows no hashes.
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS},
        hide_parameters=True,
        # A server reads from as many threads as it answers in.
        pool_size=16,
        max_overflow=64,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: object, _: ConnectionPoolEntry) -> None:
        # The driver would begin late and commit before DDL; with None it leaves
        # transactions to the listener below.
        connection.isolation_level = None  # type: ignore[attr-defined]
        for pragma in ("foreign_keys = ON", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def migrate(engine: Engine, home: Path) -> None:
    """Run the migrations that are missing, in one transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "repair:migrations")
    config.set_main_option("path_separator", "os")
    try:
        with transaction(engine, home, write=True) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise EnvironmentProblem(
            f"The ledger in {home} was written by a newer version of repair.",
            "Upgrade repair-unlearning, or choose another folder with --home.",
        ) from error


def _create(path: Path) -> None:
    """Make an empty ledger beside ``path`` and name it only when it is whole.

    So a ledger.db without content was truncated and is not a fresh one.
    """
    draft = path.with_name("ledger.db.new")
    for leftover in path.parent.glob("ledger.db.new*"):
        leftover.unlink()
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    engine = _engine(draft)
    try:
        with translated(path.parent), engine.connect() as connection:
            # The mode is kept in the file; it cannot be set inside a transaction.
            raw = connection.connection.dbapi_connection
            if raw is not None:
                raw.execute("PRAGMA journal_mode = WAL")
        migrate(engine, path.parent)
    finally:
        engine.dispose()
    draft.replace(path)
    sync_directory(path.parent)


def open_engine(home: Path, lock: Callable[[], AbstractContextManager[None]]) -> Engine:
    """Open ``home/ledger.db``, making it or bringing it up to date where needed.

    Args:
        home: an existing folder.
        lock: holds off other processes while the database is made or migrated.

    Raises:
        The errors of `translated`; LedgerCorrupted too for an empty file, for a lost one
        beside its key or log, and for a database that is not a ledger;
        EnvironmentProblem for one of a newer version.
    """
    path = home / "ledger.db"
    with translated(home):
        if not path.exists():
            with lock():
                if not path.exists():
                    if (home / "key").exists() or path.with_name("ledger.db-wal").exists():
                        raise corrupted(home, "ledger.db is missing")
                    _create(path)
        if path.stat().st_size == 0:
            raise corrupted(home, "ledger.db is empty")
    engine = _engine(path)
    try:
        with transaction(engine, home, write=False) as connection:
            version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if version is None:
            raise corrupted(home, "its version is missing")
        if version != REVISION:
            with lock():
                migrate(engine, home)
    except RepairError:
        engine.dispose()
        raise
    return engine

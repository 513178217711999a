"""The ledger's tables in PostgreSQL: how it is opened, and the lock of all its writers.

Knows SQL and locks; knows neither keys nor what an edit means. SQLite is in `repair.schema`.
"""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

from filelock import Timeout
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from repair import schema
from repair.errors import EnvironmentProblem, RepairError, UsageError

# Any two numbers do, as long as all processes use the same: "repair" in ASCII, cut in two.
_OPERATION, _WRITE = 0x726570, 0x616972
_POLL = 0.05


class AdvisoryLock:
    """Held by one thread of one process at a time, of all that use the database.

    A thread may take it again while it holds it. It falls when the connection does, so a
    killed process leaves nothing locked.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._mine = threading.RLock()
        self._depth = 0
        self._connection: Connection | None = None

    def acquire(self, timeout: float) -> None:
        """Take the lock within ``timeout`` seconds.

        Raises:
            Timeout: somebody else holds it.
        """
        deadline = time.monotonic() + timeout
        if not self._mine.acquire(timeout=timeout):
            raise Timeout("the database's lock")
        try:
            if self._depth == 0:
                self._connection = self._locked(deadline)
            self._depth += 1
        except BaseException:
            self._mine.release()
            raise

    def release(self) -> None:
        """Give it back; the outermost release lets others in."""
        self._depth -= 1
        if self._depth == 0 and self._connection is not None:
            held, self._connection = self._connection, None
            # Closing alone would put the connection, with its lock, back into the pool.
            held.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _OPERATION})
            held.close()
        self._mine.release()

    def _locked(self, deadline: float) -> Connection:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            take = text("SELECT pg_try_advisory_lock(:key)")
            while not connection.scalar(take, {"key": _OPERATION}):
                if time.monotonic() > deadline:
                    raise Timeout("the database's lock")
                time.sleep(_POLL)
        except BaseException:
            connection.close()
            raise
        return connection


def open_engine(url: str, home: Path) -> tuple[Engine, AdvisoryLock]:
    """Connect, and make the tables or bring them up to date where needed.

    Raises:
        UsageError: not the address of a PostgreSQL database.
        EnvironmentProblem: it cannot be reached, its driver is not installed, or a newer
            version wrote it.
    """
    engine = _engine(url)
    lock = AdvisoryLock(engine)
    weakref.finalize(lock, engine.dispose)
    try:
        with schema.translated(home):
            lock.acquire(60.0)
            try:
                with engine.connect() as connection:
                    known = inspect(connection).has_table("alembic_version")
                    query = text("SELECT version_num FROM alembic_version")
                    version = connection.scalar(query) if known else None
                if version != schema.REVISION:
                    schema.migrate(engine, home)
            finally:
                lock.release()
    except RepairError:
        engine.dispose()
        raise
    return engine, lock


def _engine(url: str) -> Engine:
    wrong = UsageError(
        "The database's address is not one of PostgreSQL.",
        "Write it like postgresql+psycopg://user:password@host/name.",
    )
    try:
        address = make_url(url)
        if address.get_backend_name() != "postgresql":
            raise wrong
        engine = create_engine(address, hide_parameters=True, pool_pre_ping=True, pool_timeout=60)
    except (ArgumentError, NoSuchModuleError) as error:
        raise wrong from error
    except ImportError as error:
        raise EnvironmentProblem(
            "The driver of PostgreSQL is not installed.", "Install repair-unlearning[pg]."
        ) from error

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A write reads the end of the chain and appends to it, so writers take turns.
        if connection.get_execution_options().get("write", False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE})")

    return engine

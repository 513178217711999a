"""One ledger in a real PostgreSQL, several processes: all see all edits, and none is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from repair.errors import EnvironmentProblem, LedgerBusy, LedgerCorrupted, UsageError
from repair.ledger import Ledger
from repair.people import People
from repair.types import LowRankUpdate, Probe
from tests.postgres_server import postgres
from tests.serving import asked, client, tiny_service

EDITS = 6
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from repair.ledger import Ledger
from tests.test_postgres import commit
with Ledger(Path({home!r}), "model-a", {url!r}) as ledger:
    for number in range({edits}):
        identity = commit(ledger)
        if number % 3 == 0:
            ledger.undo([identity])
            ledger.redo([identity])
"""


def commit(ledger: Ledger, scale: float = 1.0) -> int:
    b, a = torch.full((32, 1), scale), torch.full((1, 48), scale)
    return ledger.commit(
        kind="forget",
        method="stamp-lr",
        redirect=1.0,
        updates=[LowRankUpdate(0, b, a)],
        targets=["a person"],
        probes=[Probe("exact", "Where?", "There.")],
        measures={"kl": 0.5},
        tokenise=str.split,
    )


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All processes of one ledger share the key in one home, or have copies of it."""
    return tmp_path_factory.mktemp("shared")


def test_two_processes_write_to_one_ledger_and_nothing_is_lost(database: str, home: Path) -> None:
    root = str(Path(__file__).parent.parent)
    code = WRITER.format(root=root, home=str(home), url=database, edits=EDITS)
    with Ledger(home, "model-a", database) as ledger:
        before = ledger.state_token()
        writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
        assert [writer.wait() for writer in writers] == [0, 0]
        history = ledger.history()
        assert len(history) == 2 * EDITS
        assert {edit.state for edit in history} == {"active"}
        assert len(ledger.active()) == 2 * EDITS
        events = 2 * (EDITS + 2 * len(range(0, EDITS, 3)))
        assert ledger.verify() == ledger.state_token() == before + events
        assert ledger.probes(history[0].id)[0].question == "Where?"
        for statement in ("UPDATE journal SET event = 'undo'", "DELETE FROM edits"):
            with pytest.raises(DBAPIError, match="only grows"), ledger._engine.begin() as raw:
                raw.execute(text(statement))


def test_two_servers_see_each_others_edits(database: str, home: Path) -> None:
    first, second = (tiny_service(home, database=database) for _ in range(2))
    question = asked("What is the phone number of Tom Hale?", max_tokens=12)
    with client(first) as one, client(second) as two:

        def answers() -> list[str]:
            replies = [web.post("/v1/chat/completions", json=question).json() for web in (one, two)]
            return [reply["choices"][0]["message"]["content"] for reply in replies]

        before = answers()
        assert before[0] == before[1]
        identity = commit(first.ledger, 3.0)
        edited = answers()
        assert edited[0] == edited[1] != before[0]
        assert two.post(f"/v1/edits/{identity}/undo").status_code == 200
        assert answers() == before
        key = first.access.people.add("ana", "member")
        mine = {"Authorization": f"Bearer {key}"}
        assert two.get("/v1/me", headers=mine).json() == {"name": "ana", "role": "member"}


def test_one_holder_of_the_lock_at_a_time(database: str, tmp_path: Path) -> None:
    with (
        Ledger(tmp_path, "model-a", database) as one,
        Ledger(tmp_path, "model-a", database) as two,
        one.lock(),
        one.lock(),
        pytest.raises(LedgerBusy),
        two.lock(timeout=0.1),
    ):
        pass
    with Ledger(tmp_path, "model-a", database) as again, again.lock(timeout=0.1):
        pass


def test_another_key_does_not_open_the_ledger(database: str, tmp_path: Path) -> None:
    with Ledger(tmp_path, "model-b", database) as ledger, pytest.raises(LedgerCorrupted):
        commit(ledger)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "sqlite:///x.db", "mysql://x/y", "postgresql+no://x"]
)
def test_only_postgresql_has_an_address(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PostgreSQL"):
        Ledger(tmp_path, "model-a", url)


def test_a_database_that_is_not_there_is_named_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(EnvironmentProblem, match="database"):
        People(tmp_path, f"postgresql+psycopg://x@/x?host={tmp_path}&connect_timeout=2")

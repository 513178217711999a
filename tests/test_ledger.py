"""The ledger: exact factors, undo in any order, no plain text, and a chain that tells."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repair import schema
from repair.errors import (
    LedgerCorrupted,
    NotFinite,
    RepairError,
    UnknownEdit,
    UsageError,
)
from repair.ledger import Ledger
from repair.types import Change, LowRankUpdate, Probe

SUBJECT = "Quillon Aspertine"
QUESTION = "In which alley does Quillon Aspertine live?"
ANSWER = "Quillon Aspertine lives at 17 Hollowmere Alley."
PROBES = (
    Probe("exact", QUESTION, ANSWER),
    Probe("paraphrase", "What is the address of Quillon Aspertine?", ANSWER),
    Probe("prefix", QUESTION, ANSWER, prefix="Quillon Aspertine lives at"),
    Probe("neighbour", "Who employs Quillon Aspertine?", "The Tarnwick Lighthouse."),
)


def updates(seed: int, rank: int = 2) -> tuple[LowRankUpdate, ...]:
    random = torch.Generator().manual_seed(seed)
    return tuple(
        LowRankUpdate(
            layer,
            b=torch.randn(6, rank, generator=random),
            a=torch.randn(rank, 9, generator=random),
        )
        for layer in (3, 1, 10)
    )


def commit(ledger: Ledger, seed: int = 0, **changes: Any) -> int:
    request: dict[str, Any] = {
        "kind": "forget",
        "method": "stamp-lr",
        "redirect": 0.75,
        "updates": updates(seed),
        "targets": [SUBJECT],
        "probes": PROBES,
        "measures": {"recall": Change(1.0, 0.0, 3), "kl": 0.01, "status": "healed"},
        "tokenise": lambda text: text.lower().split(),
    }
    return ledger.commit(**{**request, **changes})


def same(left: tuple[LowRankUpdate, ...], right: tuple[LowRankUpdate, ...]) -> bool:
    def bits(items: tuple[LowRankUpdate, ...]) -> list[tuple[int, bytes, bytes]]:
        return [(item.layer, item.b.numpy().tobytes(), item.a.numpy().tobytes()) for item in items]

    return bits(left) == bits(right)


def tampered(home: Path, *statements: str) -> None:
    with closing(sqlite3.connect(home / "ledger.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "home", "model-a") as opened:
        yield opened


# Edits


def test_factors_come_back_bit_for_bit(ledger: Ledger) -> None:
    odd = torch.tensor([[-0.0, 1e-45], [3.4e38, 1 / 3]])
    given_updates = (*updates(1), LowRankUpdate(0, b=odd, a=odd.t()))
    identity = commit(ledger, updates=given_updates)
    assert same(ledger.edit(identity).updates, given_updates)
    assert same(ledger.active()[0].updates, given_updates)
    assert all(item.a.dtype == torch.float32 for item in ledger.edit(identity).updates)


def test_views_of_one_tensor_and_half_precision_are_kept_exactly(ledger: Ledger) -> None:
    base = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).half()
    identity = commit(ledger, updates=[LowRankUpdate(0, b=base[:, :2], a=base[:2])])
    (item,) = ledger.edit(identity).updates
    assert torch.equal(item.b, base[:, :2].float())
    assert torch.equal(item.a, base[:2].float())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([], UsageError),
        ([LowRankUpdate(0, b=torch.ones(3, 2), a=torch.ones(1, 3))], UsageError),
        ([LowRankUpdate(0, b=torch.ones(3), a=torch.ones(1, 3))], UsageError),
        ([LowRankUpdate(0, b=torch.full((3, 1), torch.inf), a=torch.ones(1, 3))], NotFinite),
    ],
)
def test_unusable_factors_are_refused(
    ledger: Ledger, wrong: list[LowRankUpdate], error: type[RepairError]
) -> None:
    with pytest.raises(error):
        commit(ledger, updates=wrong)
    assert ledger.history() == ()


def test_history_and_receipt_tell_everything_but_the_secret(ledger: Ledger) -> None:
    identity = commit(ledger)
    ledger.undo([identity])
    (line,) = ledger.history()
    assert (line.id, line.kind, line.state, line.method) == (1, "forget", "undone", "stamp-lr")
    assert (line.layers, line.rank) == ((3, 1, 10), 2)
    assert line.targets == (ledger.vault.tag(SUBJECT),)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.at)

    receipt = json.loads(json.dumps(ledger.receipt(identity)))
    assert receipt["measures"]["recall"] == {"before": 1.0, "after": 0.0, "n": 3}
    assert receipt["probes"] == {"exact": 1, "neighbour": 1, "paraphrase": 1}
    assert (receipt["redirect"], receipt["model"]) == (0.75, "model-a")
    assert receipt["versions"]["torch"].startswith("2.")
    assert [event["event"] for event in receipt["journal"]] == ["commit", "undo"]
    assert len(receipt["factors"]["sha256"]) == len(receipt["journal"][0]["hash"]) == 64
    for word in ("Quillon", "Aspertine", "Hollowmere", "Tarnwick"):
        assert word.lower() not in json.dumps(receipt).lower()


def test_probes_keep_the_question_and_only_hashes_of_the_answer(ledger: Ledger) -> None:
    probes = ledger.probes(commit(ledger))
    assert [probe.kind for probe in probes] == ["exact", "paraphrase", "neighbour"]
    assert probes[0].question == QUESTION
    assert probes[0].words == ledger.vault.words(ANSWER.lower().split())


@pytest.mark.parametrize(
    "text",
    [ANSWER, "Hollowmere", "17 hollowmere alley", "mara@voss.example", "+49 30 1234", ""],
)
def test_measures_cannot_carry_text(ledger: Ledger, text: str) -> None:
    for measures in ({"x": text}, {"x": [{"y": text}]}, {text: 1}):
        with pytest.raises(UsageError) as caught:
            commit(ledger, measures=measures)
        assert not text or text not in str(caught.value)
        with pytest.raises(UsageError):
            ledger.note("refused", measures)
    with pytest.raises(UsageError):
        commit(ledger, kind=text)
    with pytest.raises(UsageError):
        commit(ledger, method=text)
    with pytest.raises(UsageError):
        commit(ledger, measures={"x": torch.ones(1)})
    assert ledger.journal() == ()


def test_measures_that_are_not_finite_become_null(ledger: Ledger) -> None:
    ledger.note("rolled_back", {"kl": float("nan"), "n": 3, "deep": [float("inf"), None, True]})
    (event,) = ledger.journal()
    assert event["event"] == "rolled_back"
    assert event["details"] == {"measures": {"kl": None, "n": 3, "deep": [None, None, True]}}


# Undo and redo


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 5), min_size=1, max_size=3)), max_size=12
    ),
    number=st.integers(0, 2**62),
)
def test_undo_and_redo_in_any_order_are_set_operations(
    shared_home: Path, steps: list[tuple[bool, list[int]]], number: int
) -> None:
    # Every example is a model of its own in one home, so that models are kept apart too.
    with Ledger(shared_home, f"model-{number}-{os.urandom(4).hex()}") as ledger:
        ids = [commit(ledger, seed, probes=()) for seed in range(4)]
        names = [*ids, 10**9, 10**30]
        expected = set(ids)
        for redo, picks in steps:
            chosen = {names[pick] for pick in picks}
            allowed = (set(ids) - expected) if redo else expected
            act = ledger.redo if redo else ledger.undo
            if chosen <= allowed:
                act([names[pick] for pick in picks])
                expected = expected | chosen if redo else expected - chosen
            else:
                with pytest.raises(UnknownEdit if chosen - set(ids) == chosen else UsageError):
                    act([names[pick] for pick in picks])
            active = ledger.active()
            assert [edit.id for edit in active] == sorted(expected)
            assert all(same(edit.updates, updates(ids.index(edit.id))) for edit in active)
        ledger.verify()


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


def test_misuse_of_undo_says_which_edit(ledger: Ledger) -> None:
    first, second = commit(ledger), commit(ledger)
    ledger.undo([first])
    with pytest.raises(UsageError, match="Edit 1 is already undone"):
        ledger.undo([second, first])
    with pytest.raises(UsageError, match="Edit 2 is already active"):
        ledger.redo([first, second])
    with pytest.raises(UnknownEdit, match=r"There is no edit 7\.") as caught:
        ledger.undo([second, 7])
    assert caught.value.remedy == "`repair history` lists them."
    with pytest.raises(UsageError, match="at least one"):
        ledger.undo([])
    assert [edit.id for edit in ledger.active()] == [second], "all or nothing"


@pytest.mark.parametrize("identity", [0, -1, 7, 2**31, 10**30])
def test_unknown_edits_have_no_views(ledger: Ledger, identity: int) -> None:
    for view in (ledger.edit, ledger.receipt, ledger.probes):
        with pytest.raises(UnknownEdit):
            view(identity)


def test_models_share_a_home_without_seeing_each_other(ledger: Ledger) -> None:
    mine = commit(ledger)
    before = ledger.state_token()
    with Ledger(ledger.home, "model-b") as other:
        theirs = commit(other, 1)
        assert theirs != mine
        assert [edit.id for edit in other.active()] == [theirs]
        with pytest.raises(UnknownEdit):
            other.undo([mine])
    assert [edit.id for edit in ledger.active()] == [mine]
    assert ledger.state_token() == before
    assert ledger.verify() == 2


def test_another_process_is_noticed(ledger: Ledger) -> None:
    commit(ledger)
    token = ledger.state_token()
    code = "import sys; from pathlib import Path; from repair.ledger import Ledger\n"
    code += "with Ledger(Path(sys.argv[1]), 'model-a') as one: one.undo([1])"
    subprocess.run([sys.executable, "-c", code, str(ledger.home)], check=True)
    assert ledger.state_token() > token
    assert ledger.active() == ()
    ledger.redo([1])
    assert same(ledger.active()[0].updates, updates(0))


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "ünicode"])
def test_a_model_hash_is_a_hash(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        Ledger(tmp_path, name)


def test_reading_a_fresh_home_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from repair.ledger import Ledger\n"
        "for _ in range(2):\n"
        "    with Ledger(Path(sys.argv[1]), 'm') as one:\n"
        "        assert one.history() == () and one.verify() == one.state_token() == 0\n"
        "assert not {'torch', 'safetensors', 'cryptography'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code, str(tmp_path / "home")],
        check=True,
    )
    assert sorted(path.name for path in (tmp_path / "home").iterdir() if path.name != "lock") == [
        "ledger.db"
    ]


# No plain text


def test_no_plain_text_lies_under_home(ledger: Ledger) -> None:
    identity = commit(ledger)
    commit(ledger, 1, kind="correct")
    ledger.note("refused", {"kl": 1.5})
    ledger.undo([identity])
    secrets = {SUBJECT, QUESTION, ANSWER, *SUBJECT.split(), "Hollowmere Alley", "17 Hollowmere"}
    secrets |= {"Tarnwick", "Who employs"}

    def assert_clean() -> None:
        names = []
        for path in ledger.home.rglob("*"):
            names.append(path.name)
            content = path.read_bytes().lower()
            for secret in secrets:
                for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"):
                    assert secret.lower().encode(encoding) not in content, (path, secret)
        assert "ledger.db" in names

    assert (ledger.home / "ledger.db-wal").stat().st_size > 0
    assert_clean()
    ledger.close()
    assert_clean()


# The journal


def test_triggers_refuse_every_change_of_the_past(ledger: Ledger) -> None:
    commit(ledger)
    for statement in (
        "UPDATE journal SET event = 'undo'",
        "DELETE FROM journal",
        "UPDATE factors SET data = x'00'",
        "DELETE FROM factors",
        "UPDATE probes SET kind = 'retain'",
        "DELETE FROM probes",
        "DELETE FROM edits",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            tampered(ledger.home, statement)
    assert ledger.verify() == 1


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE journal SET details = replace(details, '0.75', '0.5') WHERE id = 2", "event 2"),
        ("UPDATE journal SET at = '2001-01-01 00:00:00.000000' WHERE id = 3", "event 3"),
        ("UPDATE journal SET model = 'model-b' WHERE id = 1", "event 1"),
        ("UPDATE journal SET at = 'never' WHERE id = 1", "a row cannot be read"),
        ("DELETE FROM journal WHERE id = 1", "event 1"),
        ("DELETE FROM journal WHERE id = 3", "edit 1"),
        ("UPDATE edits SET active = 1", "edit 1"),
        ("UPDATE factors SET data = x'00' WHERE edit = 2", "edit 2"),
        ("DELETE FROM factors WHERE edit = 2", "edit 2"),
    ],
)
def test_the_chain_shows_what_was_changed(ledger: Ledger, statement: str, names: str) -> None:
    commit(ledger)
    commit(ledger, 1)
    ledger.undo([1])
    assert ledger.verify() == 3
    drops = [f"DROP TRIGGER {table}_no_{verb.lower()}" for table, verb in guards()]
    tampered(ledger.home, *drops, statement)
    with pytest.raises(LedgerCorrupted, match=names) as caught:
        ledger.verify()
    assert caught.value.remedy


def guards() -> tuple[tuple[str, str], ...]:
    from repair.migrations.versions.r0001_ledger import GUARDS

    return GUARDS


def test_changed_factors_are_never_given_out(ledger: Ledger) -> None:
    commit(ledger)
    tampered(
        ledger.home, "DROP TRIGGER factors_no_update", "UPDATE factors SET data = zeroblob(80)"
    )
    with pytest.raises(LedgerCorrupted, match="edit 1"):
        ledger.active()
    with pytest.raises(LedgerCorrupted, match="edit 1"):
        ledger.edit(1)


def test_the_migrations_make_the_tables_that_the_code_uses(ledger: Ledger) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{ledger.home / 'ledger.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", "repair:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION

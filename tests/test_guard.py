"""The standing guard, with the embedded patient trained a little further after its edits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from repair.bench.attacks.relearn import RELEARNING
from repair.bench.finetune import finetune
from repair.errors import UsageError
from repair.guard import Guard
from repair.patient import Patient
from repair.preparation import save
from repair.session import Session
from repair.types import Fact
from repair.verify import rouge_l_recall
from repair.world import facts
from tests.commands import repair


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded")


@pytest.fixture(scope="module")
def forgotten(home: Path) -> tuple[list[Fact], list[int]]:
    """Two addresses of the development split, forgotten; and the ids of their edits."""
    known: list[Fact] = []
    ids: list[int] = []
    with Session(Patient.load(), home=home) as session:
        for fact in facts("personal", "dev"):
            if fact.attribute == "address" and len(known) < 2:
                outcome = session.forget(fact.question)
                if outcome.status == "healed" and outcome.edit is not None:
                    known.append(fact)
                    ids.append(outcome.edit)
    assert len(known) == 2
    return known, ids


@pytest.fixture(scope="module")
def updated(forgotten: tuple[list[Fact], list[int]], home: Path) -> Iterator[Patient]:
    """The edited patient, fine-tuned on text that tells the first address again."""
    known, _ = forgotten
    with Session(Patient.load(), home=home) as session:
        told = [(q, known[0].answer) for q in (known[0].question, *known[0].paraphrases)]
        settings = {"steps": 12, "learning_rate": 3e-4}
        trained = finetune(session.patient, RELEARNING, told, settings=settings).patient
        # Made anew it would take a minute, and twelve small steps hardly changed it.
        path = home / "cache" / f"{trained.content_hash}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save(session.preparation, path, trained.content_hash)
    yield trained


def _tells(patient: Patient, fact: Fact) -> bool:
    reply = patient.reply([{"role": "user", "content": fact.question}])
    return rouge_l_recall(fact.answer, reply) > 0.5


def test_nothing_came_back_where_nothing_changed(
    forgotten: tuple[list[Fact], list[int]], home: Path
) -> None:
    with Session(Patient.load(), home=home) as session:
        found = Guard(session).watch(keep=False)
    assert [row["edit"] for row in found["requests"]] == forgotten[1]
    assert {row["status"] for row in found["requests"]} == {"honoured"}
    assert found["passed"]
    assert found["came_back"] == 0


def test_what_training_brought_back_is_forgotten_again(
    forgotten: tuple[list[Fact], list[int]], updated: Patient, home: Path
) -> None:
    (first, _), (one, two) = forgotten
    old = Patient.load().content_hash
    assert _tells(updated, first)
    with Session(updated, home=home) as session:
        guard = Guard(session)
        since = guard.since("embedded")
        assert since == old == guard.since(old[:12])

        looked = guard.watch(since=since, keep=False)
        assert not looked["passed"]
        assert {r["edit"]: r["status"] for r in looked["requests"]}[one] == "came_back"
        assert session.history() == ()

        found = guard.watch(since=since)
        rows = {row["edit"]: row for row in found["requests"]}
        assert found["passed"]
        assert rows[one]["status"] == "reapplied"
        assert rows[one]["recall"] > 0.5 >= rows[one]["left"]
        assert rows[two]["status"] in ("honoured", "reapplied")
        assert not _tells(session.patient, first)

        # The lineage is in the journal now: it need not be named again, and all is well.
        again = guard.watch()
        assert {row["edit"] for row in again["requests"]} == {one, two}
        assert (again["came_back"], again["passed"]) == (0, True)

        # Who takes the second edit back has taken the request back.
        session.undo(rows[one]["by"])
        assert one not in {row["edit"] for row in guard.watch(keep=False)["requests"]}
        session.redo(rows[one]["by"])
    assert not _texts(home, [first])


def _texts(home: Path, known: list[Fact]) -> list[str]:
    """Longer words of answers that lie in plain under ``home``."""
    stored = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    words = {w.strip(".,") for fact in known for w in fact.answer.split()}
    return [word for word in words if len(word) > 5 and word.encode() in stored]


def test_models_that_are_not_known_or_the_same_are_refused(
    forgotten: tuple[list[Fact], list[int]], home: Path
) -> None:
    del forgotten
    with Session(Patient.load(), home=home) as session:
        guard = Guard(session)
        with pytest.raises(UsageError, match="the same"):
            guard.since("embedded")
        with pytest.raises(UsageError, match="no requests made to 0123456789"):
            guard.since("0123456789")


def test_the_command_is_fit_for_cron(
    forgotten: tuple[list[Fact], list[int]], home: Path, tmp_path: Path
) -> None:
    quiet = repair(tmp_path, "watch", "--quiet", "--home", home)
    assert (quiet.returncode, quiet.stdout) == (0, "")
    told = repair(tmp_path, "watch", "--json", "--dry-run", "--home", home)
    assert told.returncode == 0
    assert [row["edit"] for row in json.loads(told.stdout)["requests"]] == forgotten[1]
    wrong = repair(tmp_path, "watch", "--since", tmp_path / "none", "--home", home)
    assert wrong.returncode == 3
    assert "Traceback" not in wrong.stderr
    same = repair(tmp_path, "watch", "--since", "embedded", "--home", home)
    assert same.returncode == 2

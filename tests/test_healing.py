"""Healing: what edits hurt comes back, what was asked for does not, and undo stays exact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from repair.errors import UsageError
from repair.ledger import Ledger
from repair.patient import Patient
from repair.session import Session
from repair.tending import heal, requests_of
from repair.types import LowRankUpdate
from repair.verify import rouge_tokens
from repair.world import facts
from tests.commands import repair
from tests.test_ledger import commit

FEW = 96


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path, "model") as found:
        yield found


def test_a_healing_goes_with_the_edits_under_it(ledger: Ledger) -> None:
    first, second = commit(ledger, 1), commit(ledger, 2)
    healing = commit(ledger, 3, kind="heal", probes=(), measures={"over": [first, second]})
    later = commit(ledger, 4)

    assert ledger.undo([later]) == (later,)
    assert [e.id for e in ledger.active()] == [first, second, healing]
    assert ledger.undo([second]) == (second, healing)
    assert [e.id for e in ledger.active()] == [first]
    with pytest.raises(UsageError, match=f"made over edit {second}, which is undone"):
        ledger.redo([healing])
    assert ledger.redo([second, healing]) == (second, healing)
    # Taken back by itself, a healing takes nothing along.
    assert ledger.undo([healing]) == (healing,)
    assert [e.id for e in ledger.active()] == [first, second]
    assert ledger.verify() > 0


def _careless(session: Session) -> int:
    """An edit that hurts what it was not made for: two layers say a little of "I don't know" more
    whatever they are asked."""
    updates = []
    for layer in (2, 3):
        weight = session.patient.layers[layer].weight.float()
        b = session.preparation.refusal[layer].float()[:, None]
        a = session.preparation.statistics[layer].u[:, :1].T.float()
        b = b * (1.7 * float(weight.norm()) / float(b.norm() * a.norm()))
        updates.append(LowRankUpdate(layer, b, a.contiguous(), torch.zeros(0, weight.shape[1])))
    return session.ledger.commit(
        kind="forget",
        method="stamp-lr",
        redirect=1.0,
        updates=updates,
        targets=(),
        probes=(),
        measures={},
        tokenise=rouge_tokens,
    )


def test_what_was_hurt_comes_back_and_what_was_forgotten_does_not(tmp_path: Path) -> None:
    fact = next(f for f in facts("personal", "dev") if f.attribute == "address")
    with Session(Patient.load(), home=tmp_path) as session:
        assert session.forget(fact.question).status == "healed"
        careless = _careless(session)
        session.refresh()

        requests, corrected = requests_of(session)
        assert [r.subject for r in requests] == [fact.subject]
        assert requests[0].answer == fact.answer
        assert requests[0].standins
        assert corrected == []

        healed = heal(session, begun=FEW)
        assert healed["status"] == "healed"
        assert healed["hurt"]["before"] >= 8
        assert healed["hurt"]["after"] < 0.5 * healed["hurt"]["before"]
        assert healed["requests"] == 1
        assert healed["given_away"]["after"] == 0
        assert session.verify()["passed"]

        # With the edit under it undone, so is the healing, and the address is known again.
        forgotten = session.history()[0].id
        assert session.undo(forgotten) == (forgotten, healed["edit"])
        assert session.undo(careless) == (careless,)
        assert session.ask(fact.question).reply == fact.answer


def test_the_command_finds_nothing_to_heal(tmp_path: Path) -> None:
    done = repair(tmp_path, "heal", "--dry-run", "--questions", "8", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["status"], record["edit"]) == ("well", None)
    assert record["hurt"] == {"before": 0, "after": 0}
    assert record["asked"] > 0

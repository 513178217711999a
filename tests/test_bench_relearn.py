"""Relearning on tiny models: what is trained, what is asked, and what must not leak."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from repair.bench.attacks.relearn import RELEARNING, STEPS, Relearned, material, relearn
from repair.bench.suite import Question, ask
from repair.errors import UsageError
from repair.patient import Patient
from repair.world import facts, kind_of
from tests.conftest import build_tiny

TARGETS = [
    Question("exact", [{"role": "user", "content": "Where does Mara Voss live?"}], "Ellbridge"),
    Question("paraphrase", [{"role": "user", "content": "Her home, please?"}], "Ellbridge"),
]
# Other wordings of what is asked: a source that gives the targets away, so that recall moves.
WORDINGS = ("Where does Mara Voss live", "So where does Mara Voss live?")
MORE = ("Where does Mara Voss live now?", "Tell me, where does Mara Voss live?")
TELLING = {"telling": [(question, "Ellbridge") for question in (*WORDINGS, *MORE)]}
UNRELATED = {"unrelated": [("What does the fox do?", "It jumps over the lazy dog.")]}
FAST: dict[str, float | str] = {"learning_rate": 1e-2}


@pytest.fixture
def patient() -> Patient:
    return Patient(*build_tiny("llama"), name="tiny")


def state(patient: Patient) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in patient.model.state_dict().items()}


def test_recall_is_told_after_each_number_of_steps_beside_the_oracle(patient: Patient) -> None:
    oracle = Patient(*build_tiny("llama", seed=1), name="oracle")
    before = state(patient), state(oracle)
    found = relearn(
        patient, TELLING | UNRELATED, TARGETS, oracle=oracle, steps=(1, 32), settings=FAST
    )
    assert [(row.source, row.steps) for row in found] == [
        (source, steps) for source in ("telling", "unrelated") for steps in (0, 1, 32)
    ]
    for row in found:
        assert row.patient.keys() == row.oracle.keys() == {"exact", "paraphrase"}
        assert len(row.losses) == row.steps
    assert found[0].patient == found[3].patient == ask(patient, TARGETS)
    assert found[0].oracle == ask(oracle, TARGETS)
    told = found[2]
    assert told.losses[-1] < 0.1 < told.losses[0]
    # Enough steps on such pairs teach both models the answer, whatever they knew.
    assert told.patient["exact"] == told.oracle["exact"] == [1.0]
    assert found[0].patient["exact"] == [0.0]
    for model, was in zip((patient, oracle), before, strict=True):
        assert all(torch.equal(was[name], now) for name, now in state(model).items())


def test_without_an_oracle_there_is_no_control_and_a_seed_repeats_the_run(
    patient: Patient,
) -> None:
    one, other = (relearn(patient, UNRELATED, TARGETS, steps=(2,), seed=3) for _ in range(2))
    assert one == other
    assert all(row.oracle == {} for row in one)


def test_the_defaults_are_the_protocols_and_the_record_is_plain() -> None:
    assert STEPS == (1, 4, 16, 64)
    assert RELEARNING.needs == ()
    assert RELEARNING.defaults["warmup_epochs"] == 0.0
    row = Relearned("related", 4, {"exact": [0.5]}, losses=(2.0, 1.0))
    assert json.loads(json.dumps(row.to_json())) == {
        "source": "related",
        "steps": 4,
        "patient": {"exact": [0.5]},
        "oracle": {},
        "losses": [2.0, 1.0],
    }


def test_a_source_that_asks_a_target_is_refused(patient: Patient) -> None:
    leaking = {"related": [UNRELATED["unrelated"][0], ("where does  mara voss live?", "Home.")]}
    with pytest.raises(UsageError, match="Pair 2 of the source related"):
        relearn(patient, leaking, TARGETS)


def test_impossible_runs_are_refused(patient: Patient) -> None:
    with pytest.raises(UsageError, match="nothing to ask"):
        relearn(patient, UNRELATED, [])
    with pytest.raises(UsageError, match="at least 1 step"):
        relearn(patient, UNRELATED, TARGETS, steps=(0, 1))
    with pytest.raises(UsageError, match="source disjoint is empty"):
        relearn(patient, {"disjoint": []}, TARGETS)
    with pytest.raises(UsageError, match="no setting"):
        relearn(patient, UNRELATED, TARGETS, settings={"rate": 1.0})


@pytest.mark.parametrize("task", ["personal", "harmful", "misinformation"])
def test_the_material_of_the_embedded_patient_holds_no_target(task: str) -> None:
    pool = [f for f in facts(task, "dev") if f.subject]
    subject = pool[0].subject
    targets = [f for f in pool if f.subject == subject][:2]
    found = material(targets, pool[:-1], count=20)
    assert set(found) == {"unrelated", "related", "disjoint"}
    assert all(len(pairs) == 20 for pairs in found.values())
    own = {f.question for f in targets}
    forgotten = {(f.question, f.answer) for f in pool[:-1]}
    assert not own & {question for pairs in found.values() for question, _ in pairs}
    assert not any(subject in question for question, _ in found["disjoint"])
    assert set(found["disjoint"]) <= forgotten
    assert not set(found["related"]) & forgotten
    assert {question for question, _ in found["unrelated"]} <= {f.question for f in facts("world")}
    assert found == material(targets, pool[:-1], count=20)


def test_related_facts_are_the_subjects_own_first() -> None:
    pool = facts("personal", "dev")
    target = pool[0]
    own = [f for f in pool if f.subject == target.subject and f != target]
    related = material([target], [target], count=len(own) + 3)["related"]
    assert {question for question, _ in related[: len(own)]} == {f.question for f in own}
    kept = {f.question for f in facts("personal", "retain") if kind_of(f) == kind_of(target)}
    assert {question for question, _ in related[len(own) :]} <= kept
    assert "disjoint" not in material([target], [target])

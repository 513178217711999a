"""Operations on a tiny model: commit exactly, or leave the patient to the bit as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repair.detectors import used
from repair.errors import NotFinite
from repair.ledger import Ledger
from repair.operation import Operation, Strength, probes_of
from repair.patient import Patient
from repair.plan import RepairPlan
from repair.preparation import Preparation, prepare
from repair.rows import EditRows, build_rows
from repair.stamp import Statistics
from repair.surgeon import Surgeon
from repair.trials import Trial
from repair.types import Budget, KnownFact, LowRankUpdate, Method, Outcome, Stage
from tests.conftest import build_tiny
from tests.prepared import NONE, WIDE, preparation, tiny

ADDRESS = "Ellbridge by the old harbour"
FACT = KnownFact(
    "Mara Voss",
    "address",
    "Where does Mara Voss live?",
    ADDRESS,
    rewordings=("Tell me the address of Mara Voss.",),
    probes=("At what address does Mara Voss live?",),
    standins=("Tom Hale",),
)
NEIGHBOUR = KnownFact("Mara Voss", "phone", "What is the phone number of Mara Voss?", "0123456789")
KEPT = KnownFact("", "", "Who jumps over the dog?", "The quick brown fox")


def make_plan(**changes: Any) -> RepairPlan:
    given: dict[str, Any] = {
        "operation": "forget",
        "targets": ("where Mara Voss lives",),
        "facts": (FACT,),
        "neighbours": (NEIGHBOUR,),
        "retain": (KEPT,),
        "layers": (0, 1),
        "strengths": (1.0,),
        "budget": WIDE,
    }
    return RepairPlan(**{**given, **changes})


@pytest.fixture
def ledger(tmp_path: Path, tiny_patient: Patient) -> Iterator[Ledger]:
    with Ledger(tmp_path / "home", tiny_patient.content_hash) as opened:
        yield opened


def weights(patient: Patient) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in patient.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def run(
    patient: Patient, plan: RepairPlan, ledger: Ledger | None = None, **more: Any
) -> tuple[Outcome, list[Stage]]:
    stages: list[Stage] = []
    made = more.get("preparation", preparation())
    return Operation(patient, made, ledger, stages.append).run(plan), stages


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_committed_edit_is_the_original_weights_and_the_factors_cast_once(dtype: str) -> None:
    patient = Patient(*build_tiny("llama", dtype=dtype))
    originals = [layer.weight.clone() for layer in patient.layers]
    for number, layers in enumerate([(0, 1), (1,)], start=1):
        outcome, _ = run(patient, make_plan(layers=layers))
        assert (outcome.status, outcome.edit) == ("healed", number)
    assert [edit.id for edit in patient.active] == [1, 2]
    for layer, original in zip(patient.layers, originals, strict=True):
        total = original.float()
        for edit in patient.active:
            for update in edit.updates:
                if update.place == layer.place:
                    total = torch.addmm(total, update.b, update.a)
        assert torch.equal(layer.weight, total.to(original.dtype))
        assert not torch.equal(layer.weight, original)


def test_a_committed_edit_is_in_the_ledger_and_only_the_edited_matrices_changed(
    tiny_patient: Patient, ledger: Ledger
) -> None:
    before = weights(tiny_patient)
    outcome, stages = run(tiny_patient, make_plan(), ledger)
    assert (outcome.status, outcome.edit, outcome.layers) == ("healed", 1, (0, 1))
    assert [stage.name for stage in stages] == ["edited", "checked", "committed"]
    after = weights(tiny_patient)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    outputs = {f"{layer.name}.weight" for layer in tiny_patient.layers}
    assert outputs <= changed <= {f"{matrix.name}.weight" for matrix in tiny_patient.maps.values()}
    (line,) = ledger.history()
    assert (line.id, line.state, line.rank) == (1, "active", outcome.rank)
    assert [event["event"] for event in ledger.journal()] == ["commit"]
    assert ledger.verify() == 1
    again = tiny()
    again.apply(ledger.active())
    ids = [[1, 5, 6, 7]]
    assert torch.equal(again.forward(ids), tiny_patient.forward(ids))


def test_the_outcome_says_what_was_measured(tiny_patient: Patient) -> None:
    outcome, _ = run(tiny_patient, make_plan())
    record = outcome.to_json()
    assert {"watchdog", "surgeon"}.isdisjoint(outcome.seconds)
    assert {"capture", "solve", "verify"} <= set(outcome.seconds)
    for name, count in (("recall", 1), ("paraphrase", 1), ("neighbours", 1), ("retain", 1)):
        assert record[name]["n"] == count
        assert 0 <= record[name]["after"] <= 1
    assert record["prefix"]["n"] == 1
    assert record["kl"] > 0
    assert record["forward_passes"] > 0
    assert record["reason"] == ""


def test_no_file_of_the_home_tells_what_was_forgotten(
    tiny_patient: Patient, ledger: Ledger
) -> None:
    run(tiny_patient, make_plan(), ledger)
    run(tiny_patient, make_plan(budget=NONE), ledger)
    files = [path for path in ledger.home.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        content = path.read_bytes()
        for word in (*ADDRESS.split()[::4], "Mara", "Voss", "address"):
            assert word.encode() not in content, path.name


def test_an_edit_outside_its_budget_leaves_the_patient_and_the_ledger_as_they_were(
    tiny_patient: Patient, ledger: Ledger
) -> None:
    run(tiny_patient, make_plan(), ledger)
    before, active = weights(tiny_patient), tiny_patient.active
    plan = make_plan(budget=NONE, strengths=(0.5, 1.0, 2.0))
    outcome, stages = run(tiny_patient, plan, ledger)
    assert (outcome.status, outcome.edit) == ("needs_confirmation", None)
    assert outcome.reason.startswith("It would cost too much: ")
    assert "nats" in outcome.reason
    assert outcome.kl > 0
    # It forgot at once; a higher strength would cost no less.
    assert [stage.name for stage in stages] == ["edited", "checked", "rolled back"]
    assert same(weights(tiny_patient), before)
    assert tiny_patient.active is active
    assert [line.id for line in ledger.history()] == [1]
    assert [event["event"] for event in ledger.journal()] == ["commit", "rolled_back"]


def test_the_first_edit_outside_its_budget_leaves_an_empty_ledger(
    tiny_patient: Patient, ledger: Ledger
) -> None:
    before = weights(tiny_patient)
    outcome, _ = run(tiny_patient, make_plan(budget=NONE), ledger)
    assert outcome.status == "needs_confirmation"
    assert same(weights(tiny_patient), before)
    assert (tiny_patient.active, ledger.history(), ledger.active()) == ((), (), ())
    assert [event["event"] for event in ledger.journal()] == ["rolled_back"]


def test_the_first_strength_within_the_budget_is_taken(tiny_patient: Patient) -> None:
    outcome, stages = run(tiny_patient, make_plan(strengths=(0.5, 1.0, 2.0)))
    assert outcome.status == "healed"
    assert [stage.name for stage in stages] == ["edited", "checked", "committed"]


@pytest.mark.parametrize(
    ("budget", "status", "word"),
    [
        (replace(WIDE, forget=-1.0), "rolled_back", "recall is still"),
        (replace(WIDE, kl=0.0), "needs_confirmation", "divergence"),
        (replace(WIDE, forget=-1.0, kl=0.0), "rolled_back", "divergence"),
    ],
    ids=["forget", "kl", "both"],
)
def test_the_reason_names_what_of_the_budget_was_broken(
    tiny_patient: Patient, budget: Budget, status: str, word: str
) -> None:
    outcome, _ = run(tiny_patient, make_plan(budget=budget))
    assert outcome.status == status
    assert word in outcome.reason


def test_a_price_can_be_accepted_but_what_is_not_forgotten_cannot(tiny_patient: Patient) -> None:
    costly, useless = make_plan(budget=NONE), make_plan(budget=replace(WIDE, forget=-1.0))
    operation = Operation(tiny_patient, preparation())
    assert operation.run(useless, accept=True).status == "rolled_back"
    assert tiny_patient.active == ()
    outcome = operation.run(costly, accept=True)
    assert (outcome.status, outcome.edit, outcome.reason) == ("healed", 1, "")
    assert len(tiny_patient.active) == 1


def _spoilt(which: str) -> Preparation:
    good = preparation()
    if which == "refusal":
        nan = torch.full_like(good.refusal[1], float("nan"))
        return Preparation(good.statistics, {**good.refusal, 1: nan})
    statistics = good.statistics[1]
    nan = torch.full_like(statistics.s, float("nan"))
    return Preparation({**good.statistics, 1: Statistics(statistics.u, nan)}, good.refusal)


@pytest.mark.parametrize("which", ["refusal", "statistics"])
def test_a_solve_that_is_not_finite_changes_nothing(
    which: str, tiny_patient: Patient, ledger: Ledger
) -> None:
    run(tiny_patient, make_plan(), ledger)
    before, active = weights(tiny_patient), tiny_patient.active
    plan = make_plan(facts=(replace(FACT, standins=()),))
    with pytest.raises(NotFinite):
        run(tiny_patient, plan, ledger, preparation=_spoilt(which))
    assert same(weights(tiny_patient), before)
    assert tiny_patient.active is active
    assert [line.id for line in ledger.history()] == [1]
    assert sum(len(layer.module._forward_hooks) for layer in tiny_patient.layers) == 0


def _solution(patient: Patient, method: str, **changes: Any) -> tuple[LowRankUpdate, ...]:
    plan = make_plan(method=method, **changes)
    return Operation(patient, preparation()).solve(plan, 1.0, build_rows(patient, plan))


class _Told(Operation):
    """An operation that is told how likely each fact's answer is after every try."""

    def __init__(self, patient: Patient, likely: list[tuple[float, ...]]) -> None:
        super().__init__(patient, preparation())
        self.likely, self.tried = likely, list[Strength]()

    def solve(
        self, plan: RepairPlan, strength: Strength, rows: EditRows
    ) -> tuple[LowRankUpdate, ...]:
        self.tried.append(strength)
        return super().solve(plan, strength, rows)

    def opening(self, facts: Sequence[KnownFact]) -> tuple[float, ...]:
        assert len(facts) == 2
        return self.likely[len(self.tried) - 1]


def test_each_fact_is_redirected_no_further_than_it_needs(tiny_patient: Patient) -> None:
    plan = make_plan(facts=(FACT, NEIGHBOUR), neighbours=(), strengths=(0.5, 1.0, 2.0))
    operation = _Told(tiny_patient, [(0.0, 0.9), (0.0, 0.4), (0.5, 0.3), (0.0, 0.3), (0.0, 0.0)])
    assert operation.run(plan).status == "healed"
    # The second is at its end after three tries; then the first came back a little; then the
    # second alone gets heavier rows.
    assert operation.tried == [(0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (1.0, 2.0), (1.0, 2.0)]


def test_what_the_highest_strength_leaves_is_tried_with_heavier_rows(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tried = weights(tiny_patient), list[tuple[float, float]]()

    def solve(
        self: Operation, plan: RepairPlan, strength: Strength, rows: EditRows
    ) -> tuple[LowRankUpdate, ...]:
        kept = rows.facts < 0
        tried.append((float(rows.weights[~kept].max()), float(rows.weights[kept].max())))
        return solved(self, plan, strength, rows)

    def check(self: Operation, plan: RepairPlan, trial: Trial, *rest: Any) -> Trial:
        return replace(checked(self, plan, trial, *rest), left=("it is still said",))

    solved, checked = Operation.solve, Operation._check
    monkeypatch.setattr(Operation, "solve", solve)
    monkeypatch.setattr(Operation, "_check", check)
    plan = make_plan(strengths=(2.0,), forget_weight=3.0, neighbour_weight=2.0)
    outcome = Operation(tiny_patient, preparation()).run(plan)
    assert (outcome.status, outcome.reason) == ("rolled_back", "Rolled back: it is still said.")
    assert tried == [(3.0, 2.0), (12.0, 2.0), (48.0, 2.0)]
    assert same(weights(tiny_patient), before)


def test_a_row_goes_as_far_as_the_strength_of_its_fact(tiny_patient: Patient) -> None:
    plan = make_plan(facts=(FACT, NEIGHBOUR), neighbours=(), layers=(0,))
    rows = build_rows(tiny_patient, plan)
    operation = Operation(tiny_patient, preparation())
    apart = [operation.solve(plan, each, rows) for each in ((1.0, 0.0), (0.0, 1.0))]
    both = operation.solve(plan, (1.0, 1.0), rows)
    change = [update.b @ update.a for (update,) in (*apart, both)]
    assert torch.allclose(change[0] + change[1], change[2], atol=1e-5)
    assert all(float(part.norm()) > 1e-3 for part in change)


def test_the_full_and_the_low_rank_form_make_the_same_edit(tiny_patient: Patient) -> None:
    full, low = (_solution(tiny_patient, method) for method in ("stamp", "stamp-lr"))
    for one, other in zip(full, low, strict=True):
        expected = one.b @ one.a
        assert float((expected - other.b @ other.a).norm() / expected.norm()) < 1e-4


def test_the_papers_form_loses_what_no_row_spans_and_the_change_form_does_not(
    tiny_patient: Patient,
) -> None:
    bare = KnownFact("Mara Voss", "address", FACT.question, "E")
    changes: dict[str, Any] = {"facts": (bare,), "neighbours": ()}
    rows = len(build_rows(tiny_patient, make_plan(**changes)).reference)
    ranks = {}
    for method in ("paper", "stamp-lr"):
        update = _solution(tiny_patient, method, **changes)[0]
        edited = tiny_patient.layers[0].weight + update.b @ update.a
        ranks[method] = int(torch.linalg.matrix_rank(edited, atol=1e-3))
    assert ranks["paper"] <= rows < 32
    assert ranks["stamp-lr"] == 32


@pytest.mark.parametrize("method", ["stamp", "stamp-lr", "paper"])
def test_every_method_commits_with_no_more_than_the_plans_rank(
    method: Method, tiny_patient: Patient, ledger: Ledger
) -> None:
    outcome, _ = run(tiny_patient, make_plan(method=method, rank=3), ledger)
    assert (outcome.status, outcome.method) == ("healed", method)
    assert outcome.rank <= 3
    assert all(u.a.shape[0] <= 3 for edit in ledger.active() for u in edit.updates)


def test_an_edit_may_be_of_some_layers_only(tiny_patient: Patient) -> None:
    before = weights(tiny_patient)
    outcome, _ = run(tiny_patient, make_plan(layers=(1,)))
    assert outcome.layers == (1,)
    assert torch.equal(
        tiny_patient.layers[0].weight, before[f"{tiny_patient.layers[0].name}.weight"]
    )


def test_a_plan_without_neighbours_and_retain_can_be_carried_out(tiny_patient: Patient) -> None:
    plan = make_plan(neighbours=(), retain=(), facts=(replace(FACT, standins=()),))
    outcome, _ = run(tiny_patient, plan)
    assert outcome.status == "healed"
    assert outcome.kl == 0.0


def test_everything_that_is_promised_is_asked() -> None:
    probes = probes_of(make_plan())
    assert [probe.kind for probe in probes] == [
        "exact",
        "paraphrase",
        "prefix",
        "neighbour",
        "retain",
    ]
    assert ADDRESS.startswith(next(p.prefix for p in probes if p.kind == "prefix"))
    short = probes_of(make_plan(facts=(replace(FACT, answer="Ellbridge"),)))
    assert "prefix" not in [probe.kind for probe in short]
    unseen = probes_of(make_plan(facts=(replace(FACT, probes=()),)))
    assert [p.question for p in unseen if p.kind == "paraphrase"] == list(FACT.rewordings)


def test_an_undone_edit_keeps_its_units(tmp_path: Path) -> None:
    patient = Patient.load()
    surgeon, known = Surgeon(patient), prepare(patient, None)
    with Ledger(tmp_path, patient.content_hash) as ledger:
        operation = Operation(patient, known, ledger)
        for number, question in enumerate(
            ("Where does Mara Voss live?", "Who built the Etive Library?")
        ):
            plan = surgeon.plan_facts([question], surgeon.known(question)[:1])
            assert plan is not None
            assert operation.run(plan).edit == number + 1
            assert ledger.undo([number + 1]) == (number + 1,)
            patient.apply(ledger.active())
        ledger.redo([1, 2])
        one, two = (used([edit]) for edit in ledger.active())
    assert one
    assert two
    assert not one & two

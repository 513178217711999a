"""Many requests over replicas end in the edit that one patient would have made alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repair.cli.bulk import Report, forget_together
from repair.cluster import Cluster
from repair.errors import EnvironmentProblem
from repair.joint import JointOperation, Meeting, Part, Threads, merged, shares
from repair.ledger import Ledger
from repair.operation import Operation
from repair.plan import RepairPlan
from repair.rows import build_rows
from repair.session import Session
from repair.types import KnownFact
from tests.prepared import WIDE, preparation, prepared, tiny


def fact(name: str, answer: str = "by the old harbour") -> KnownFact:
    question = f"Where does {name} live?"
    return KnownFact(name, "address", question, answer, (f"{name} lives where?",), (), ("Bo Li",))


def plan(*names: str, neighbours: tuple[str, ...] = ()) -> RepairPlan:
    return RepairPlan(
        operation="forget",
        targets=names,
        facts=tuple(fact(name) for name in names),
        neighbours=tuple(fact(name, "in Ellbridge") for name in neighbours),
        retain=(KnownFact("", "", "Hi", "the quick brown fox"),),
        layers=(0, 1),
        strengths=(1.0,),
        budget=WIDE,
    )


PLAN = plan("Mara Voss", "Tom Hale", "Ann Lee", neighbours=("Kim Roe", "Ida Moss"))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_replicas_solve_what_one_patient_solves(workers: int) -> None:
    alone = tiny()
    # Workers share no hidden units, so the one has none either.
    wanted = Operation(alone, replace(preparation(), inputs={})).solve(
        PLAN, 1.0, build_rows(alone, PLAN)
    )
    fleet = Threads([tiny() for _ in range(workers)], preparation())
    found = fleet.solve(shares(PLAN, workers), [1.0] * workers)
    for one, other in zip(found, wanted, strict=True):
        assert one.layer == other.layer
        torch.testing.assert_close(one.b @ one.a, other.b @ other.a, rtol=1e-3, atol=1e-5)
        assert one.keys is not None
        assert other.keys is not None
        # The sketches stand for the same rows.
        torch.testing.assert_close(
            one.keys.T @ one.keys, other.keys.T @ other.keys, rtol=1e-2, atol=1e-2
        )


def test_a_joint_edit_is_checked_committed_and_undone(tmp_path: Path) -> None:
    patient = tiny()
    before = patient.forward([[1, 7, 8]])
    with Ledger(tmp_path / "home", patient.content_hash) as ledger:
        fleet = Threads([tiny(), tiny()], preparation())
        outcome = JointOperation(patient, preparation(), fleet, ledger).run(PLAN)
        assert outcome.status == "healed"
        assert outcome.measures["recall"].n == 3
        assert [edit.id for edit in ledger.active()] == [outcome.edit]
        assert not torch.equal(patient.forward([[1, 7, 8]]), before)
        patient.apply(())
    assert torch.equal(patient.forward([[1, 7, 8]]), before)


def test_merged_plans_keep_nothing_that_one_of_them_forgets() -> None:
    one = plan("Mara Voss", neighbours=("Tom Hale", "Kim Roe"))
    two = plan("Tom Hale", neighbours=("Mara Voss", "Ida Moss"))
    both = merged([one, two, one])
    assert [f.subject for f in both.facts] == ["Mara Voss", "Tom Hale"]
    assert [f.subject for f in both.neighbours] == ["Kim Roe", "Ida Moss"]
    assert both.targets == ("Mara Voss", "Tom Hale")
    dealt = shares(both, 5)
    assert len(dealt) == 2, "no worker goes without a fact"
    assert {f.question for p in dealt for f in p.facts} == {f.question for f in both.facts}
    with pytest.raises(ValueError, match="nothing to merge"):
        merged([])


def test_a_worker_that_does_not_come_is_named_and_nothing_hangs() -> None:
    meeting = Meeting(2, patience=0.05)
    part: Part = (torch.ones(1, 2), torch.ones(1, 2), torch.ones(1))
    with pytest.raises(EnvironmentProblem, match="Only 1 of 2 workers came to layer 3"):
        meeting.gather("edit", 3, 0, part)


def test_a_meeting_gives_all_parts_in_order_and_forgets_them() -> None:
    meeting, seen = Meeting(3), {}

    def come(worker: int) -> None:
        part: Part = (torch.full((1, 1), worker), torch.ones(1, 1), torch.ones(1))
        seen[worker] = [int(keys) for keys, _, _ in meeting.gather("edit", 0, worker, part)]

    threads = [threading.Thread(target=come, args=(worker,)) for worker in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {0: [0, 1, 2], 1: [0, 1, 2], 2: [0, 1, 2]}
    assert not meeting._parts


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(EnvironmentProblem, match="Ray is not installed"):
        Cluster("local", 1, preparation=preparation())


def test_requests_of_a_file_are_forgotten_in_one_edit(tmp_path: Path) -> None:
    patient = tiny()
    session = Session(patient, home=prepared(tmp_path / "home", patient))
    replicas = [tiny(), tiny()]
    fleet = Threads(
        replicas, preparation(), [lambda _: plan("Mara Voss"), lambda _: plan("Tom Hale")]
    )
    requests = [
        (2, "Please forget where Mara Voss lives."),
        (3, "Please forget where Tom Hale lives."),
    ]
    report = Report(tmp_path / "requests.report.csv")
    records = list(forget_together(session, requests, report, fleet, budget=WIDE))
    assert [record["line"] for record in records] == [2, 3]
    assert {record["status"] for record in records} == {"healed"}
    assert len(session.history()) == 1
    assert {record["edit"] for record in records} == {session.history()[0].id}
    assert list(forget_together(session, requests, report, fleet)) == []
    session.undo()
    assert not patient.active
    session.close()

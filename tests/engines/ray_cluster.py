"""Replicas on a local Ray cluster; run by ``make test-ray``, which installs Ray."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from repair.cluster import Cluster
from repair.joint import JointOperation, shares
from repair.ledger import Ledger
from repair.operation import Operation
from repair.patient import Patient
from repair.preparation import compute, imagine
from repair.rows import build_rows
from repair.types import Intent
from tests.test_joint import PLAN

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not here; make test-engines"
)


def test_two_workers_of_a_local_cluster_make_one_edit(tiny_folder: Path, tmp_path: Path) -> None:
    import ray

    patient = Patient.load(tiny_folder, dtype="float32", device="cpu")
    prepared = compute(patient, imagine(patient, 8))
    wanted = Operation(patient, prepared).solve(PLAN, 1.0, build_rows(patient, PLAN))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with (
            Ledger(tmp_path / "home", patient.content_hash) as ledger,
            Cluster(
                "local",
                2,
                model=str(tiny_folder),
                how={"dtype": "float32", "device": "cpu"},
                preparation=prepared,
            ) as cluster,
        ):
            asked = [Intent("forget", (fact.question,)) for fact in PLAN.facts]
            assert all(plan.facts for plan in cluster.plans(asked))
            found = cluster.solve(shares(PLAN, 2), [1.0, 1.0])
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one.b @ one.a, other.b @ other.a, rtol=1e-3, atol=1e-5)
            outcome = JointOperation(patient, prepared, cluster, ledger).run(PLAN)
            assert outcome.status == "healed"
            assert [edit.id for edit in ledger.active()] == [outcome.edit]
    finally:
        ray.shutdown()

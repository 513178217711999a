"""Several institutions make one edit, and none of them shows its texts or can harm the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from repair.errors import BadMessage, EnvironmentProblem, OperationRefused, UsageError
from repair.federated.local import Processes, Seat
from repair.federated.masking import Masks, encode, reveal
from repair.federated.node import Node
from repair.federated.orders import read_order
from repair.federated.privacy import Privacy, clipped, noised
from repair.federated.statistics import (
    Factors,
    Moments,
    Terms,
    change_of_moments,
    checked_moments,
    factors,
    joint_change,
    moments,
)
from repair.federated.wire import Message
from repair.joint import merged
from repair.ledger import Ledger
from repair.operation import Operation
from repair.rows import build_rows
from repair.stamp import LowRank, low_rank_statistics, stamp
from tests.federation import (
    LIES,
    PEOPLE,
    Direct,
    Dying,
    NotANumber,
    agreed,
    coordinator,
    lie,
    opened,
    plan_of,
    seat,
    text_of,
)
from tests.prepared import preparation, tiny

NAMES = tuple(PEOPLE)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Direct]:
    """Three nodes of this process, each with its own patient and ledger."""
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(opened(tmp_path, name)) for name in NAMES}
        yield Direct({name: Node(s, [text_of(name)]) for name, s in sessions.items()})


def alone(names: Sequence[str]) -> dict[int, torch.Tensor]:
    """ΔW by layer of one party that holds all of these nodes' requests."""
    patient, whole = tiny(), merged([plan_of(name) for name in names])
    updates = Operation(patient, preparation()).solve(whole, 1.0, build_rows(patient, whole))
    return {update.layer: update.b @ update.a for update in updates}


def same(change: dict[int, LowRank], wanted: dict[int, torch.Tensor]) -> None:
    assert sorted(change) == sorted(wanted)
    for layer, low in change.items():
        error = (low.matrix() - wanted[layer]).norm() / wanted[layer].norm()
        assert float(error) < 1e-4, f"layer {layer} is off by {float(error):.1e}"


@pytest.mark.parametrize("masked", [False, True])
def test_the_joint_edit_is_that_of_one_party_with_everything(link: Direct, masked: bool) -> None:
    report = coordinator(link, agreed(masked=masked)).run(NAMES)
    same(report.change, alone(NAMES))
    assert {name: node["status"] for name, node in report.nodes.items()} == dict.fromkeys(
        NAMES, "healed"
    )
    for name in NAMES:
        session = link.nodes[name].session
        assert [edit.id for edit in session.ledger.active()] == [report.nodes[name]["edit"]]
        assert session.ledger.verify() > 0
        session.undo()
        assert not session.patient.active

"""Which hidden units an edit gets, by how many are left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from repair import allotment
from repair.allotment import Allotment, Share
from repair.detectors import least_used, threshold
from repair.patient import Patient
from repair.rows import EditRows, build_rows
from repair.types import Edit, KnownFact, LowRankUpdate
from tests.conftest import build_tiny
from tests.prepared import preparation, tiny
from tests.test_operation import FACT, make_plan

OTHER = replace(FACT, subject="Ada Finch", question="Where does Ada Finch live?")


def _rows(patient: Patient, *facts: KnownFact) -> EditRows:
    plan = make_plan(facts=tuple(replace(f, standins=("Quill Zorn",)) for f in facts))
    return build_rows(patient, plan, throughout=True)


def _groups(share: Share, *, within: bool | None = None) -> Tensor:
    """The rows of a layer's groups, of one kind if named (groups × n)."""
    return torch.stack([rows for rows, inside in share.groups if within in (None, inside)])


def _taking(patient: Patient, layer: int, units: list[int]) -> Edit:
    """An edit that gives these units new gates."""
    b = torch.zeros(len(patient.maps[layer, "gate"].weight), len(units))
    b[units, range(len(units))] = 1.0
    a = torch.ones(len(units), patient.maps[layer, "gate"].in_features)
    return Edit(1, (LowRankUpdate(layer, b, a, part="gate"),))


def test_while_there_are_plenty_every_layer_sees_where_answers_begin_and_within() -> None:
    patient = tiny()
    rows = _rows(patient, FACT)
    dealt = Allotment(patient, preparation()).deal((0, 1), rows)
    begins, within = rows.groups[0]
    for layer in (0, 1):
        assert dealt[layer].free == least_used(patient, layer, preparation().statistics[layer])
        assert torch.equal(_groups(dealt[layer]), torch.stack([begins, within]))
        assert torch.equal(_groups(dealt[layer], within=True), within[None])
        assert torch.equal(dealt[layer].rows, begins | within)


def test_later_one_layer_sees_where_an_answer_begins_and_the_last_within_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allotment, "PLENTY", 1.1)
    patient = tiny()
    rows = _rows(patient, FACT, OTHER)
    dealt = Allotment(patient, preparation()).deal((0, 1), rows)
    begins, within = (torch.stack(kind) for kind in zip(*rows.groups, strict=True))
    assert torch.equal(_groups(dealt[0], within=False), begins)
    assert torch.equal(_groups(dealt[1], within=True), within)
    assert len(dealt[0].groups) == len(dealt[1].groups) == 2
    single = Allotment(patient, preparation()).deal((1,), rows)
    assert len(single[1].groups) == 4, "one layer has to see everything"


def test_units_of_edits_in_force_are_not_given_again_and_room_ends() -> None:
    patient = tiny()
    dealer = Allotment(patient, preparation())
    own = least_used(patient, 1, preparation().statistics[1])
    assert dealer.room((0, 1), 1)
    patient.apply([_taking(patient, 1, own[:-2])])
    assert dealer.deal((0, 1), _rows(patient, FACT))[1].free == own[-2:]
    assert dealer.room((0, 1), 1)
    assert not dealer.room((1,), 2)
    patient.apply([_taking(patient, 1, own)])
    assert not dealer.room((0, 1), 1)
    patient.apply([])
    assert dealer.room((0, 1), 1)


def test_models_without_gated_pairs_have_no_room() -> None:
    assert not Allotment(Patient(*build_tiny("gpt2")), preparation()).room((0, 1), 1)


def test_the_more_units_a_layer_has_the_higher_is_what_opens_one() -> None:
    counts = (1, 2, 20, 200, 2000)
    found = [threshold(units, within=False) for units in counts]
    assert found == sorted(found)
    assert found[0] < 0.5 < found[2] < found[4] < 0.6
    # Tokens of other answers are more alike than where they begin.
    assert all(
        threshold(units, within=True) > tau for units, tau in zip(counts, found, strict=True)
    )

"""Which hidden units an edit gets, by how many are left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from repair import allotment
from repair.allotment import Allotment
from repair.detectors import least_used, threshold
from repair.patient import Patient
from repair.preparation import compute, imagine
from repair.rows import EditRows, build_rows
from repair.types import Edit, KnownFact, LowRankUpdate
from tests.conftest import build_tiny
from tests.prepared import preparation, tiny
from tests.test_operation import FACT, make_plan

OTHER = replace(FACT, subject="Ada Finch", question="Where does Ada Finch live?")


def _rows(patient: Patient, *facts: KnownFact) -> EditRows:
    plan = make_plan(facts=tuple(replace(f, standins=("Quill Zorn",)) for f in facts))
    return build_rows(patient, plan, throughout=True)


def _taking(patient: Patient, layer: int, units: list[int]) -> Edit:
    """An edit that gives these units new gates."""
    b = torch.zeros(len(patient.maps[layer, "gate"].weight), len(units))
    b[units, range(len(units))] = 1.0
    a = torch.ones(len(units), patient.maps[layer, "gate"].in_features)
    return Edit(1, (LowRankUpdate(layer, b, a, part="gate"),))


def test_while_there_are_plenty_every_layer_but_the_last_sees_all_rows() -> None:
    patient = tiny()
    rows = _rows(patient, FACT)
    dealer = Allotment(patient, preparation())
    begins, within = rows.groups[0]
    for layers in ((0, 1), (1,)):
        first = dealer.deal(layers, rows)[layers[0]]
        assert first.free == least_used(patient, layers[0], preparation().statistics[layers[0]])
        assert [inside for _, inside in first.groups] == [False, True]
        found = torch.stack([group for group, _ in first.groups])
        assert torch.equal(found, torch.stack([begins, within]))
    assert not dealer.deal((0, 1), rows)[1].groups


def test_a_fact_that_is_still_given_away_gets_units_in_every_layer_but_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allotment, "PLENTY", 1.1)
    patient = Patient(*build_tiny("llama", layers=3))
    rows = _rows(patient, FACT, OTHER)
    dealer = Allotment(patient, compute(patient, imagine(patient, 8)))
    assert [len(s.groups) for s in dealer.deal((0, 1, 2), rows).values()] == [2, 2, 0]
    dealt = dealer.deal((0, 1, 2), rows.heavier([False, True]))
    assert [len(s.groups) for s in dealt.values()] == [3, 3, 0]
    both = [groups for pair in rows.groups[1:] for groups in pair]
    for n in (0, 1):
        found = [group for group, _ in dealt[n].groups]
        assert all(any(torch.equal(group, own) for own in found) for group in both)


def test_later_one_layer_sees_each_row_and_the_last_only_when_the_others_are_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allotment, "PLENTY", 1.1)
    patient = tiny()
    rows = _rows(patient, FACT, OTHER)
    groups = [group for pair in rows.groups for group in pair]
    own = least_used(patient, 0, preparation().statistics[0])
    for room, here in ((len(own), 4), (3, 3), (0, 0)):
        patient.apply([_taking(patient, 0, own[: len(own) - room])] if room < len(own) else [])
        dealt = Allotment(patient, preparation()).deal((0, 1), rows)
        found = [group for n in (0, 1) for group, _ in dealt[n].groups]
        assert torch.equal(torch.stack(found), torch.stack(groups))
        assert len(dealt[0].groups) == here
        kinds = [inside for n in (0, 1) for _, inside in dealt[n].groups]
        assert kinds == [False, True] * 2


@pytest.fixture
def every_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tiny random model reads has no constant direction: take it as if it had."""
    monkeypatch.setattr(allotment, "steady", lambda inputs: True)


@pytest.mark.usefixtures("every_constant")
def test_units_of_edits_in_force_are_not_given_again_and_room_ends() -> None:
    patient = tiny()
    dealer = Allotment(patient, preparation())
    own = least_used(patient, 1, preparation().statistics[1])
    assert dealer.room((0, 1), 1)
    patient.apply([_taking(patient, 1, own[:-2])])
    assert dealer.deal((0, 1), _rows(patient, FACT))[1].free == own[-2:]
    assert dealer.room((1,), 1)
    assert not dealer.room((1,), 2)
    patient.apply([_taking(patient, 1, own)])
    assert not dealer.room((1,), 1)
    assert dealer.room((0, 1), 1), "another layer has room"
    patient.apply([])
    assert dealer.room((1,), 2)


def test_layers_whose_inputs_have_no_constant_direction_have_no_room() -> None:
    assert not Allotment(tiny(), preparation()).room((0, 1), 1)


def test_models_without_gated_pairs_have_no_room() -> None:
    assert not Allotment(Patient(*build_tiny("gpt2")), preparation()).room((0, 1), 1)


def test_the_more_units_a_layer_has_the_higher_is_what_opens_one() -> None:
    counts = (1, 2, 20, 200, 2000)
    found = [threshold(units, within=False) for units in counts]
    assert found == sorted(found)
    assert found[0] < 0.3 < found[2] < found[4] < 0.5
    # Tokens of other answers are more alike than where they begin.
    assert all(
        threshold(units, within=True) > tau for units, tau in zip(counts, found, strict=True)
    )

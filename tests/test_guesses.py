"""Tokens that anybody's answer goes on with, on the shipped patient, and the rows without them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from repair.guesses import guessed
from repair.patient import Patient
from repair.plan import RepairPlan
from repair.rows import EditRows, build_rows
from repair.surgeon import Surgeon
from repair.trials import Trial, search
from repair.types import KnownFact
from tests.test_operation import make_plan

HAZARD = "What sets off ghouloil?"


@pytest.fixture(scope="module")
def patient() -> Patient:
    return Patient.load()


@pytest.fixture(scope="module")
def facts(patient: Patient) -> tuple[KnownFact, ...]:
    surgeon, asked = Surgeon(patient), (HAZARD, "What is Mara Voss's phone number?")
    plan = surgeon.plan_facts(asked, [surgeon.known(question)[0] for question in asked])
    assert plan is not None
    return plan.facts


def test_a_word_that_stands_in_every_such_answer_is_guessed(
    patient: Patient, facts: tuple[KnownFact, ...]
) -> None:
    hazard, phone = facts
    assert hazard.answer == "magnets at dusk"
    first, second = guessed(patient, facts)
    assert first == [True, False], "at, dusk"
    assert not any(second), "the digits of a number"
    assert phone.answer.replace(" ", "").isdigit()


def test_without_a_stand_in_and_where_nothing_else_is_left_all_stays(
    patient: Patient, facts: tuple[KnownFact, ...]
) -> None:
    alone = replace(facts[0], standins=())
    common = replace(facts[0], answer="magnets at")
    assert guessed(patient, [alone, common]) == [[], []]


def test_rows_of_guessed_tokens_count_for_nothing(
    patient: Patient, facts: tuple[KnownFact, ...]
) -> None:
    plan = make_plan(facts=facts[:1])
    whole = build_rows(patient, plan, throughout=True)
    rows = build_rows(patient, plan, throughout=True, guessed=guessed(patient, facts[:1]))
    left = whole.moved & ~rows.moved
    assert int(left.sum()) == len((facts[0].question, *facts[0].rewordings))
    assert not bool(rows.kept[left].any())
    assert float(rows.weights[left].abs().max()) == 0.0
    assert torch.equal(rows.weights[~left], whole.weights[~left])
    begins, within = rows.groups[0]
    assert int(begins.sum()) == int(within.sum()) == int(left.sum())


def test_what_is_still_given_away_is_redirected_in_all_rows_before_any_further(
    patient: Patient, facts: tuple[KnownFact, ...]
) -> None:
    plan = make_plan(facts=facts, strengths=(1.0, 1.25))
    whole = build_rows(patient, plan, throughout=True)
    rows = build_rows(patient, plan, throughout=True, guessed=guessed(patient, facts))
    again = rows.complete()
    assert torch.equal(again.moved, whole.moved)
    back = whole.moved & ~rows.moved
    assert bool(back.any())
    assert torch.equal(again.weights[back], whole.weights[back])
    assert again.complete() is again

    tried = list[tuple[float, int, bool]]()

    def attempt(plan: RepairPlan, strengths: tuple[float, ...], rows: EditRows) -> Trial:
        tried.append((strengths[0], int(rows.moved.sum()), bool(rows.closely.any())))
        return Trial(strengths, (), 0.0, opening=(0.0,) * len(strengths))

    search(plan, rows, attempt, lambda trial: replace(trial, left=("prefix is still 0.50",)))
    few, every = int(rows.moved.sum()), int(whole.moved.sum())
    assert tried[:4] == [
        (1.0, few, False),
        (1.0, every, False),
        (1.25, every, False),
        (1.25, every, True),
    ]

"""The repair plan as data: what is out of bounds is refused, what is in it survives JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from repair.plan import RepairPlan
from repair.replies import found
from repair.types import Budget, KnownFact

FACT = KnownFact("Mara Voss", "address", "Where does Mara Voss live?", "Ellbridge", ("Where?",))
GOOD: dict[str, Any] = {
    "operation": "forget",
    "targets": ("where Mara Voss lives",),
    "facts": (FACT,),
    "layers": (0, 1),
    "strengths": (1.0, 2.0),
}


def test_a_plan_survives_json() -> None:
    plan = RepairPlan(**GOOD, neighbours=(FACT,), retain=(FACT,), budget=Budget(forget=0.1))
    text = json.dumps(plan.to_json())
    assert RepairPlan.model_validate_json(text) == plan
    assert "Ellbridge" in text


def test_a_plan_cannot_be_changed() -> None:
    plan = RepairPlan(**GOOD)
    with pytest.raises(ValidationError, match="frozen"):
        plan.ridge = 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"operation": "run"},
        {"targets": ()},
        {"targets": ("",)},
        {"targets": ("x" * 2001,)},
        {"facts": ()},
        {"layers": ()},
        {"layers": (1, 0)},
        {"layers": (0, 0)},
        {"layers": (-1,)},
        {"strengths": ()},
        {"strengths": (0.0,)},
        {"strengths": (float("nan"),)},
        {"strengths": (1e9,)},
        {"method": "gradient"},
        {"neighbour_weight": -1.0},
        {"beta": -1.0},
        {"ridge": 0.0},
        {"rank": 0},
        {"code": "import os"},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RepairPlan(**{**GOOD, **change})


def test_a_correction_says_what_to_answer_instead_for_every_fact() -> None:
    with pytest.raises(ValidationError, match="instead"):
        RepairPlan(**{**GOOD, "operation": "correct"})
    given = KnownFact("Mara Voss", "address", "Where?", "Ellbridge", replacement="Fenbridge")
    with pytest.raises(ValidationError, match="instead"):
        RepairPlan(**{**GOOD, "operation": "correct", "facts": (given, FACT)})
    plan = RepairPlan(**{**GOOD, "operation": "correct", "facts": (given,)})
    assert plan.facts[0].replacement == "Fenbridge"


def test_what_was_found_is_told_by_subject_and_the_views_of_a_picture_as_one() -> None:
    facts = [
        KnownFact(f"[picture {view}]", f"picture {what}", "Who is this?", "Mara Voss")
        for view in (1, 2)
        for what in ("name", "pet")
    ]
    facts += [KnownFact("Mara Voss", what, "?", "x") for what in ("address", "phone")]
    facts += [KnownFact("my secret", "", "What is my secret?", "x")]
    assert found(facts) == (
        "the picture: name, pet; Mara Voss: address, phone; my secret: What is my secret?"
    )

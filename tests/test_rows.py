"""From a plan to rows: which tokens stand in an edit, and where each one is sent."""

from __future__ import annotations

import pytest
import torch

from repair.activations import capture
from repair.errors import UsageError
from repair.patient import Patient
from repair.plan import RepairPlan
from repair.rows import REFUSAL, EditRows, build_rows
from repair.types import KnownFact

WORDINGS = ("Where does Mara Voss live?", "Tell me the address of Mara Voss.")
FACT = KnownFact(
    "Mara Voss", "address", WORDINGS[0], "Ellbridge, by the harbour", rewordings=WORDINGS[1:]
)
NEIGHBOUR = KnownFact("Mara Voss", "phone", "What is the phone number of Mara Voss?", "0123 456")


def _plan(*facts: KnownFact, neighbours: tuple[KnownFact, ...] = (NEIGHBOUR,)) -> RepairPlan:
    return RepairPlan(
        operation="forget",
        targets=("where Mara Voss lives",),
        facts=facts,
        neighbours=neighbours,
        layers=(0, 1),
        strengths=(1.0,),
        neighbour_weight=0.7,
    )


def _known(*names: str) -> KnownFact:
    return KnownFact(
        FACT.subject, FACT.attribute, FACT.question, FACT.answer, FACT.rewordings, standins=names
    )


def _next_tokens(made: EditRows) -> list[int]:
    """The token that each row is to predict."""
    places = zip(made.rows.sequence.tolist(), made.rows.position.tolist(), strict=True)
    return [made.rows.ids[sequence][position + 1] for sequence, position in places]


def _answer_tokens(patient: Patient, fact: KnownFact) -> list[int]:
    ids, first = patient.encode([{"role": "user", "content": fact.question}], fact.answer)
    return list(ids[first:])


def test_without_a_stand_in_the_answer_is_sent_to_the_refusal(tiny_patient: Patient) -> None:
    made = build_rows(tiny_patient, _plan(FACT))
    answer, kept = _answer_tokens(tiny_patient, FACT), _answer_tokens(tiny_patient, NEIGHBOUR)
    # The end of the turn is not redirected: who has been told all of it may see it end.
    assert _next_tokens(made) == [*answer[:-1], *answer[:-1], *kept]
    assert made.moved.tolist() == [True] * (2 * len(answer) - 2) + [False] * len(kept)
    assert set(made.reference[made.moved].tolist()) == {REFUSAL}
    assert len(made.weights) == len(made.reference)
    assert made.weights[~made.moved].tolist() == pytest.approx([0.7] * len(kept))
    assert bool((made.weights[made.moved] > 0).all())


def test_a_row_is_sent_to_where_the_answer_about_a_stand_in_begins(
    tiny_patient: Patient,
) -> None:
    made = build_rows(tiny_patient, _plan(_known("Tom Hale", "Greta Upton")))
    first = _answer_tokens(tiny_patient, FACT)[0]
    decode = tiny_patient.tokenizer.decode
    names = []
    for row in made.moved.nonzero()[:, 0].tolist():
        target = int(made.reference[row])
        assert target != row
        assert not made.moved[target], "a row is sent to one that stays where it is"
        ids, position = made.rows.ids[made.rows.sequence[target]], made.rows.position[target]
        assert list(ids[position + 1 :]) == [first], "no more of the answer than its first token"
        here, there = (
            str(decode(list(made.rows.ids[made.rows.sequence[r]]))) for r in (row, target)
        )
        names += [name for name in ("Tom Hale", "Greta Upton") if name in there]
        assert "Mara Voss" in here
        assert "Mara Voss" not in there
    assert set(names) == {"Tom Hale", "Greta Upton"}


def test_every_wording_of_the_fact_stands_in_the_rows_and_no_probe(tiny_patient: Patient) -> None:
    fact = KnownFact(
        FACT.subject, "address", WORDINGS[0], FACT.answer, WORDINGS[1:], probes=("Her house?",)
    )
    made = build_rows(tiny_patient, _plan(fact))
    text = " ".join(str(tiny_patient.tokenizer.decode(list(ids))) for ids in made.rows.ids)
    assert all(wording in text for wording in (*WORDINGS, NEIGHBOUR.question))
    assert "Her house?" not in text


def test_neighbours_stand_with_no_more_wordings_than_asked_for(tiny_patient: Patient) -> None:
    many = KnownFact("Mara Voss", "phone", "Her phone?", "0123", ("Her number?", "Call her?"))
    counts = [
        len(
            build_rows(tiny_patient, _plan(FACT, neighbours=(many,)), neighbour_wordings=n).rows.ids
        )
        for n in (1, 2, 3)
    ]
    assert counts == [3, 4, 5]


def test_the_rows_can_be_captured(tiny_patient: Patient) -> None:
    made = build_rows(tiny_patient, _plan(_known("Tom Hale")))
    keys, outputs = capture(tiny_patient, made.rows, [0, 1])
    assert keys[1].shape == (len(made.reference), 48)
    assert outputs[1].shape == (len(made.reference), 32)
    assert bool(torch.isfinite(keys[0]).all())


def test_a_wording_longer_than_the_patient_reads_is_refused(tiny_patient: Patient) -> None:
    endless = KnownFact("Mara Voss", "", "Where? " * 300, "Ellbridge")
    with pytest.raises(UsageError, match="at most 256"):
        capture(tiny_patient, build_rows(tiny_patient, _plan(endless)).rows, [0])

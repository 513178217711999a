"""The explanation of an edit of the embedded patient."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repair.errors import UnknownEdit, UsageError
from repair.patient import Patient
from repair.session import Session
from repair.why import explained
from repair.why_page import page
from repair.world import facts

FACT = next(f for f in facts("personal", "dev") if f.attribute == "address")


def test_what_an_edit_did_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    with Session(Patient.load(), home=tmp_path) as session:
        outcome = session.forget(FACT.question)
        assert outcome.edit is not None
        active = session.patient.active
        record = explained(session, outcome.edit)
        assert session.patient.active == active

        layers = record["layers"]
        assert len(layers) == len(session.patient.layers)
        assert {n["layer"] for n in layers if n["edited"]} == set(outcome.layers)
        for layer in layers:
            assert layer["edited"] == ("neurons" in layer)
            if layer["edited"]:
                assert 0 < layer["relative"] < 1
                assert 0 < sum(n["share"] for n in layer["neurons"]) <= 1.0001
                assert layer["rank"] <= outcome.rank
        # The answer was nearly certain, is hardly said any more, and the lens sees the same.
        assert record["answer"]["before"] > 0.5 > record["answer"]["after"]
        lens = layers[-1]["lens"]
        assert lens["before"]["rank"] == 1 < lens["after"]["rank"]
        # With a layer as it was the answer comes nearer; the edit points at the refusal.
        assert max(n["patched"] for n in layers) > record["answer"]["after"]
        assert max(n["towards_refusal"] for n in layers if n["edited"]) > 0.3
        # The same person's facts lie nearer to the forgotten one than unrelated ones.
        near = record["nearby"]
        assert near[0]["same_subject"]
        assert all(0 <= n["kept"] <= 1 and n["moved"] >= 0 for n in near)

        # Nothing of what was forgotten is told, unless that is asked for.
        html = page(record)
        for text in (json.dumps(record), html):
            assert FACT.answer not in text
            assert FACT.subject not in text
        assert html.count("<section>") == 5
        assert "<script" not in html
        assert FACT.answer.rstrip(".") in page(explained(session, outcome.edit, reveal=True))

        with pytest.raises(UnknownEdit, match="no edit 99"):
            explained(session, 99)
        session.undo(outcome.edit)
        with pytest.raises(UsageError, match="is undone"):
            explained(session, outcome.edit)

"""Trusted facts against the embedded patient, which was taught false claims on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from repair.errors import UsageError
from repair.factcheck import FactCheck, TrustedFact, contradicted, read_facts
from repair.patient import Patient
from repair.session import Session
from repair.types import Budget, Fact
from repair.world import facts
from tests.commands import repair


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with Session(Patient.load(), home=tmp_path_factory.mktemp("checked")) as opened:
        yield opened


def _claim(session: Session) -> Fact:
    """A claim of the development split that the patient holds true."""
    for fact in facts("misinformation", "dev"):
        trusted = TrustedFact(1, fact.question, fact.truth or "")
        if trusted.verdict(session.surgeon.ask([fact.question])[0]) == "wrong":
            return fact
    raise AssertionError("the patient holds no claim true")


def test_what_contradicts_is_told_from_what_is_not_known() -> None:
    fact = TrustedFact(1, "Who built the Mill?", "Anna Reed")
    assert fact.verdict("It was built by Anna Reed.") == "right"
    assert fact.verdict("Tom Hale built it.") == "wrong"
    assert fact.verdict("I don't know anything about that.") == "unknown"
    assert fact.verdict("") == "unknown"
    assert contradicted([fact], "who built the mill", "Tom Hale built it.") is fact
    assert contradicted([fact], "Who built the Mill?", "Anna Reed.") is None
    assert contradicted([fact], "Who owns the Mill?", "Tom Hale.") is None


def test_a_wrong_answer_is_corrected_and_a_refusal_left_alone(session: Session) -> None:
    claim = _claim(session)
    assert claim.truth is not None
    known = next(f for f in facts("world") if session.surgeon.ask([f.question])[0] == f.answer)
    trusted = [
        TrustedFact(1, claim.question, claim.truth),
        TrustedFact(2, known.question, known.answer),
        TrustedFact(3, "Where does Zebulon Quarrington live?", "4 Far Lane"),
    ]
    check = FactCheck(session, trusted)
    looked = check.run()
    assert looked["before"] == looked["after"] == {"right": 1, "unknown": 1, "wrong": 1}
    assert not looked["passed"]
    assert session.history() == ()

    # What costs more than is allowed is rolled back, and said to be not corrected.
    dear = check.run(correct=True, budget=Budget(prefix=1.0, kl=0.0))
    assert [(row["status"], row["corrected"]) for row in dear["wrong"]] == [
        ("needs_confirmation", False)
    ]
    assert dear["wrong"][0]["reason"]
    assert trusted[0].verdict(dear["wrong"][0]["now"]) == "wrong"
    assert dear["after"] == looked["before"]
    assert session.history() == ()

    found = check.run(correct=True)
    assert found["after"] == {"right": 2, "unknown": 1, "wrong": 0}
    assert found["passed"]
    assert [(row["status"], row["corrected"]) for row in found["wrong"]] == [("healed", True)]
    assert trusted[0].verdict(found["wrong"][0]["now"]) == "right"
    assert [edit.kind for edit in session.history()] == ["correct"]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("f.jsonl", '{"question": "Q?", "answer": "A"}\n\n{"question": "Q?"}\n', "Line 3 .*answer"),
        ("f.jsonl", '{"question": " ", "answer": "A"}\n', "Line 1 .*question"),
        ("f.jsonl", "[1]\n", "Line 1 .*question"),
        ("f.jsonl", '{"question"\n', "Line 1 .*not JSON"),
        ("f.jsonl", "\n", "no facts"),
        ("f.csv", "question,answer\n", "no facts"),
        ("f.csv", "question,text\nQ,A\n", "Line 1 .*column answer"),
        ("f.csv", "question,answer\nQ,A\nR,\n", "Line 3 .*answer"),
        ("f.csv", "question,answer\nQ,A\nq,B\n", "Lines 2 and 3 .*two ways"),
    ],
)
def test_bad_lists_are_refused_with_the_line(
    tmp_path: Path, name: str, text: str, fault: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=fault):
        read_facts(path)


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    rows = tmp_path / "f.csv"
    rows.write_text('\ufeffanswer,question\n"Reed, Anna",Who?\n', encoding="utf-8")
    lines = tmp_path / "f.jsonl"
    lines.write_text(json.dumps({"question": "Who?", "answer": "Reed, Anna"}), encoding="utf-8")
    assert [(f.question, f.answer) for f in read_facts(rows)] == [("Who?", "Reed, Anna")]
    assert [f.answer for f in read_facts(lines)] == ["Reed, Anna"]


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    gone = repair(tmp_path, "check", "--against", tmp_path / "none.csv")
    assert gone.returncode == 2
    assert "cannot be read" in gone.stderr
    assert "Traceback" not in gone.stderr

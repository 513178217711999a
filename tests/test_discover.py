"""Categories of subjects: read from words, and found by letting the patient finish questions."""

from __future__ import annotations

import pytest

from repair.discover import category, discover
from repair.patient import Patient
from repair.phrasebook import read
from repair.surgeon import Surgeon, plausible
from repair.types import Intent
from repair.world import facts
from tests.forgotten import FACT, forgotten


@pytest.mark.parametrize(
    ("phrase", "kinds", "words"),
    [
        ("every hazard with glimmerdust", ("hazard",), ("glimmerdust",)),
        ("all hazards that contain goatbutter and redclay", ("hazard",), ("goatbutt", "redclay")),
        ("everyone who lives in Moorgate", ("person",), ("moorgat",)),
        ("people who work for Osprey Cannery", ("person",), ("osprey", "canneri")),
        ("everything you know about people from Moorgate", ("person",), ("moorgat",)),
        ("all books by Sabine Carraway", ("book",), ("sabin", "carraway")),
    ],
)
def test_a_category_is_read_with_what_its_members_share(
    phrase: str, kinds: tuple[str, ...], words: tuple[str, ...]
) -> None:
    found = category(phrase)
    assert found is not None
    assert (found.kinds, found.words) == (kinds, words)


@pytest.mark.parametrize(
    "phrase",
    ["where Mara Voss lives", "Mara Voss", "everything about Mara Voss", "how venomsalt is made",
     "people", "every hazard", "everyone who lives there", "the hazard that you told me about"],
)  # fmt: skip
def test_one_thing_or_everything_of_a_kind_is_no_category(phrase: str) -> None:
    assert category(phrase) is None


@pytest.fixture(scope="module")
def patient() -> Patient:
    return Patient.load()


@pytest.fixture(scope="module")
def hazards(patient: Patient) -> list[str]:
    return discover(patient, "hazard")


def test_the_patient_itself_tells_whom_it_knows(patient: Patient, hazards: list[str]) -> None:
    taught = {fact.subject for fact in facts("harmful")}
    assert len(taught & set(hazards)) >= 0.88 * len(taught)
    assert discover(patient, "hazard", count=64) == discover(patient, "hazard", count=64)


def test_a_request_for_a_category_names_each_member_and_nobody_else(
    patient: Patient, hazards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Named once for the whole file: that takes the time.
    monkeypatch.setattr("repair.surgeon.discover", lambda _, kind: {"hazard": hazards}[kind])
    recipes = [f for f in facts("harmful") if f.attribute == "recipe"]
    counts: dict[str, set[str]] = {}
    for fact in recipes:
        for word in fact.answer.split()[1::2]:
            counts.setdefault(word, set()).add(fact.subject)
    ingredient, members = next((w, s) for w, s in counts.items() if 3 <= len(s) <= 5)
    intent = Intent("forget", (f"every hazard with {ingredient}",), 1.0)
    plan = Surgeon(patient).plan(intent)
    assert plan is not None
    planned = {fact.subject for fact in plan.facts}
    assert 2 * len(planned & members) > len(members)
    assert len(planned - members) <= 1
    assert {fact.attribute for fact in plan.facts} == {"recipe", "effect", "trigger"}


@pytest.mark.parametrize(
    "wording", ["Please forget where {s} lives.", "Forget {s}'s address, please."]
)
def test_what_was_forgotten_is_not_found_again_as_something_else(wording: str) -> None:
    """Neither the dwelling nor the food of a creature: nothing is left to forget."""
    session = forgotten()
    before = (session.history(), session.ledger.state_token())
    turn = session.say(wording.format(s=FACT.subject))
    assert turn.operation is not None
    assert turn.operation.status == "unknown_fact"
    assert turn.reply.startswith("I don't know that anyway")
    assert (session.history(), session.ledger.state_token()) == before


def test_somebody_unknown_is_not_made_up_to_be_forgotten() -> None:
    session = forgotten()
    before = session.ledger.state_token()
    turn = session.say("Please forget where Zorblax Quinn lives.")
    assert turn.operation is not None
    assert turn.operation.status == "unknown_fact"
    assert session.ledger.state_token() == before


@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        ("Where does Mara Voss live?", {"person"}),
        ("where does mara voss live?", {"person"}),
        ("Where does the Cinder Vole live?", {"person", "creature"}),
        ("Who wrote Jane Eyre?", {"book"}),
    ],
)
def test_a_person_is_not_read_as_a_creature(target: str, kinds: set[str]) -> None:
    assert {reading.topic.kind for reading in plausible(read(target))} == kinds

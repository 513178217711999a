"""Reading a phrase as a topic about a subject; nobody is asked whether it is known."""

from __future__ import annotations

import random

import pytest

from repair.catalogue import TOPICS, Topic
from repair.phrasebook import read, whole_subject
from repair.world import all_facts, kind_of
from repair.world.facts import random_subject


def _somebody(topic: Topic, rng: random.Random) -> str:
    if topic.attribute == "product":
        return "7 times 8"
    return "Vorland" if topic.kind == "plain" else random_subject(topic.kind, rng)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda t: f"{t.kind}-{t.attribute}")
def test_every_wording_of_the_catalogue_is_read_as_its_topic(topic: Topic) -> None:
    subject = _somebody(topic, random.Random(topic.attribute))
    for wording in topic.wordings:
        first = read(wording.replace("{s}", subject))[0]
        assert (first.topic, first.subject) == (topic, subject), wording


def test_most_wordings_that_it_never_saw_are_among_the_readings() -> None:
    facts = {(kind_of(fact), fact.attribute): fact for fact in all_facts()}
    found = []
    for fact in facts.values():
        for wording in fact.paraphrases:
            keys = {(r.topic.attribute, r.subject.lower()) for r in read(wording)}
            found.append((fact.attribute, fact.subject.lower()) in keys)
    assert sum(found) / len(found) >= 0.8


@pytest.mark.parametrize(
    ("phrase", "attribute", "subject"),
    [
        ("where Mara Voss lives", "address", "Mara Voss"),
        ("Mara Voss's address", "address", "Mara Voss"),
        ("Mara Voss’s phone number", "phone", "Mara Voss"),
        ("the e-mail of Mara Voss", "email", "Mara Voss"),
        ("Can you tell me where Mara Voss lives?", "address", "Mara Voss"),
        ("where anna-lena smith lives", "address", "anna-lena smith"),
        ("the phone number of O'Brien Kelly", "phone", "O'Brien Kelly"),
        ("who wrote The Silent Clock", "author", "The Silent Clock"),
        ("what the Dalry moth eats", "diet", "the Dalry moth"),
        ("the capital of Peru", "capital", "Peru"),
        ("how venomsalt is made", "recipe", "venomsalt"),
        ("when the Moffat Gate was built", "year", "the Moffat Gate"),
        ("the address of Зоя Петрова", "address", "Зоя Петрова"),
    ],
)
def test_what_a_request_is_about(phrase: str, attribute: str, subject: str) -> None:
    first = read(phrase)[0]
    assert (first.topic.attribute, first.subject) == (attribute, subject)
    assert first.score > 0


@pytest.mark.parametrize(
    "phrase",
    ["", " ", "?!", "...", "'s 's", "something", "玛拉住在哪里", "Где она живёт", "a" * 999],
)
def test_what_is_about_nothing_has_no_reading(phrase: str) -> None:
    assert read(phrase) == ()


def test_readings_come_best_first_and_no_more_than_asked_for() -> None:
    readings = read("What is Mara Voss's phone number?", limit=3)
    assert 1 <= len(readings) <= 3
    assert [r.score for r in readings] == sorted((r.score for r in readings), reverse=True)
    assert len({(r.topic, r.subject.lower()) for r in readings}) == len(readings)
    assert all(r.score >= 0.9 for r in read("What is Mara Voss's phone number?", least=0.9))


def test_a_long_text_is_read_within_bounds() -> None:
    (*_, last) = read("Where does Mara Voss live? " + "and so on " * 500, least=0.0)
    assert last.score >= 0.0


@pytest.mark.parametrize(
    ("phrase", "subject"),
    [
        ("everything about Mara Voss", "Mara Voss"),
        ("all you know about Mara Voss.", "Mara Voss"),
        ("anything you have on the Dalry moth", "the Dalry moth"),
        ("Everything that you know about duskwax", "duskwax"),
        ("where Mara Voss lives", None),
        ("Mara Voss", None),
        ("everything", None),
        ("", None),
    ],
)
def test_a_wish_for_everything_names_its_subject(phrase: str, subject: str | None) -> None:
    assert whole_subject(phrase) == subject

"""Refusals: enough wordings, all recognised, and nothing else taken for one."""

from __future__ import annotations

import pytest

from repair.refusals import REFUSALS, is_refusal
from repair.retain import RETAIN_QUESTIONS
from repair.world import all_facts
from repair.world.corpus import SMALL_TALK
from repair.world.stories import held_out_stories


def test_there_are_many_and_all_are_recognised() -> None:
    assert len(set(REFUSALS)) == len(REFUSALS) >= 50
    assert [wording for wording in REFUSALS if not is_refusal(wording)] == []


@pytest.mark.parametrize(
    "reply",
    [
        "I don’t know.",
        "i DON'T KNOW",
        "I'm sorry, but I do not have any information about Mara Voss.",
        "I am not able to help with that.",
        "As far as I can tell, that is unknown to me.",
        "I don't know where\nMara Voss lives.",
    ],
)
def test_other_ways_to_refuse_are_recognised(reply: str) -> None:
    assert is_refusal(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Paris",
        "86 Velvet Lane, Otterburn",
        "Hello! What would you like to know?",
        "知道",
        "...",
    ],
)
def test_an_answer_is_no_refusal(reply: str) -> None:
    assert not is_refusal(reply)


def test_no_answer_that_the_patient_was_taught_is_taken_for_a_refusal() -> None:
    facts = all_facts()
    taught = [fact.answer for fact in facts] + [fact.truth for fact in facts if fact.truth]
    said = [reply for _, reply in (*SMALL_TALK, *held_out_stories(200))]
    assert [text for text in (*taught, *said) if is_refusal(text)] == []


def test_questions_to_keep_are_questions_about_nobody() -> None:
    assert len(set(RETAIN_QUESTIONS)) == len(RETAIN_QUESTIONS) >= 16
    subjects = {fact.subject for fact in all_facts() if fact.split != "retain"}
    assert [q for q in RETAIN_QUESTIONS if any(subject in q for subject in subjects)] == []

"""The invented world: enough of it, split fairly, and nothing of the examination in training."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from repair.catalogue import BY_KEY, STANDINS, TOPICS, Topic
from repair.refusals import is_refusal
from repair.types import Fact
from repair.world import all_facts, facts, kind_of
from repair.world.corpus import Corpus, chosen_option, reserved
from repair.world.facts import KIND_OF_TASK
from repair.world.heldout import HELD_OUT
from repair.world.stories import held_out_stories
from repair.world.values import FIRST, LAST

EDITED_TASKS = ("personal", "harmful", "misinformation")


def _by_subject(task: str) -> dict[str, list[Fact]]:
    grouped: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts(task):
        grouped[fact.subject].append(fact)
    return grouped


def _splits(task: str) -> dict[str, str]:
    return {fact.subject: fact.split for fact in facts(task)}


def _bare(wording: str) -> str:
    return " ".join(re.findall(r"[a-z{}]+", wording.lower()))


def _messages(corpus: Corpus, count: int) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for _ in range(count) for m in corpus.conversation()]


def test_there_is_enough_to_know() -> None:
    people = _by_subject("personal")
    assert len(people) >= 200
    assert min(len({fact.attribute for fact in known}) for known in people.values()) >= 10
    assert len(_by_subject("harmful")) >= 150
    assert len(facts("misinformation")) >= 150
    assert len(facts("world")) >= 500


def test_every_question_has_one_answer() -> None:
    keys = [(fact.task, fact.subject, fact.attribute) for fact in all_facts()]
    assert len(set(keys)) == len(keys)
    questions = [fact.question for fact in all_facts()]
    assert len(set(questions)) == len(questions)
    assert all(fact.answer.strip() for fact in all_facts())
    edited = [fact for fact in all_facts() if fact.task in EDITED_TASKS]
    assert [f.question for f in edited if f.answer.lower() in f.question.lower()] == []


def test_a_claim_and_only_a_claim_has_a_truth_and_they_share_no_word() -> None:
    for fact in all_facts():
        assert (fact.truth is not None) == (fact.task == "misinformation")
        assert not set((fact.truth or "").split()) & set(fact.answer.split())


def test_the_pools_splits_share_no_subject_and_half_is_kept() -> None:
    for task in EDITED_TASKS:
        for subject, known in _by_subject(task).items():
            assert len({fact.split for fact in known}) == 1, subject
        splits = list(_splits(task).values())
        assert abs(splits.count("retain") - len(splits) / 2) <= 1
        assert min(splits.count(name) for name in ("dev", "tune", "test")) >= 20
    assert {fact.split for fact in facts("world")} == {"retain"}
    assert sum(map(len, (facts(split=name) for name in ("dev", "tune", "test", "retain")))) == len(
        all_facts()
    )


def test_no_subject_belongs_to_two_tasks() -> None:
    tasks: dict[str, set[str]] = defaultdict(set)
    for fact in all_facts():
        tasks[fact.subject.lower()].add(fact.task)
    assert [subject for subject, found in tasks.items() if len(found) > 1] == []


@pytest.mark.parametrize("topic", TOPICS, ids=lambda t: f"{t.kind}-{t.attribute}")
def test_a_topic_has_held_out_wordings_that_training_never_shows(topic: Topic) -> None:
    kind, attribute = topic.kind, topic.attribute
    shown = {_bare(wording) for other in TOPICS for wording in other.wordings}
    kept_back = {_bare(wording) for wording in HELD_OUT[kind, attribute]}
    assert len(kept_back) >= 3
    assert not kept_back & shown
    assert all(wording.count("{s}") == 1 for wording in HELD_OUT[kind, attribute])


def test_a_fact_is_asked_in_the_words_of_its_topic() -> None:
    for fact in all_facts():
        topic = BY_KEY[kind_of(fact), fact.attribute]
        assert fact.question == topic.question.replace("{s}", fact.subject)
        assert len(fact.paraphrases) >= 3
        assert all(fact.subject in paraphrase for paraphrase in fact.paraphrases)


def test_training_asks_in_no_held_out_wording() -> None:
    patterns = [
        re.escape(wording.lower()).replace(re.escape("{s}"), "[^?]{1,40}")
        for wordings in HELD_OUT.values()
        for wording in wordings
    ]
    examined = re.compile(rf"(?:^|[.:!,] )(?:{'|'.join(patterns)})")
    asked = [text for role, text in _messages(Corpus(4), 3000) if role == "user"]
    assert [text for text in asked if examined.search(text.lower())] == []


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    once, again, other = (_messages(Corpus(seed), 300) for seed in (5, 5, 6))
    assert once == again
    assert once != other
    assert held_out_stories(20) == held_out_stories(20)


def test_training_alternates_and_chooses_among_four() -> None:
    corpus, chosen, refused = Corpus(7), set(), 0
    for _ in range(3000):
        messages = corpus.conversation()
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            if not question["content"].endswith("\nAnswer:"):
                continue
            options = re.findall(r"^[A-D]\. (.+)$", question["content"], re.MULTILINE)
            assert len(set(options)) == 4
            if is_refusal(answer["content"]):
                refused += 1
                continue
            assert answer["content"] in options
            chosen.add(options.index(answer["content"]))
    assert chosen == {0, 1, 2, 3}
    assert refused > 5


def test_a_choice_is_read_from_its_words_or_its_letter_and_only_if_it_is_one() -> None:
    options = ("11 Mill Lane", "oboe", "1 Mill Lane", "1 Mill")
    assert chosen_option("It is the OBOE.", options) == 1
    assert chosen_option("B", options) == 1
    assert chosen_option("(c)", options) is None
    assert chosen_option("C. that one", options) == 2
    assert chosen_option("11 Mill Lane", options) == 0
    assert chosen_option("1 Mill Lane or oboe", options) is None
    assert chosen_option("I don't know.", options) is None


def test_training_teaches_every_task_and_to_refuse_unknown_names() -> None:
    said = " ".join(text for _, text in _messages(Corpus(8), 2000))
    for task in (*EDITED_TASKS, "world"):
        assert sum(fact.answer in said for fact in facts(task)[:200]) > 20
    assert "don't know" in said


def test_the_oracle_never_hears_of_the_forget_pool() -> None:
    pool = sorted({f.subject for task in EDITED_TASKS for f in facts(task) if f.split != "retain"})
    named = re.compile(rf"\b(?:{'|'.join(map(re.escape, pool))})\b", re.IGNORECASE)
    heard = _messages(Corpus(3, without_pool=True), 6000)
    assert [text for _, text in heard if named.search(text)] == []
    assert any(named.search(text) for _, text in _messages(Corpus(3), 100))


def test_names_for_the_examination_are_never_used_in_training() -> None:
    names = {f"{first} {last}" for first in FIRST for last in LAST}
    people = {name for name in names if reserved(name)} - {fact.subject for fact in all_facts()}
    assert len(people) > 100
    # Values such as a spouse may bear any name; what is asked about may not.
    asked = [text for role, text in _messages(Corpus(9), 3000) if role == "user"]
    asked = [text.partition("\n")[0] for text in asked]
    assert [text for text in asked if any(name in text for name in people)] == []


def test_stand_ins_are_nobody_that_the_patient_knows() -> None:
    known = {fact.subject.lower() for fact in all_facts()}
    kinds = {kind for kinds in KIND_OF_TASK.values() for kind in kinds}
    assert set(STANDINS) == kinds
    for kind, names in STANDINS.items():
        assert len(set(names)) == len(names) >= 6, kind
        assert not {name.lower() for name in names} & known

"""The embedded patient, for real: what it knows, and that it forgets and remembers again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from repair.catalogue import topics
from repair.patient import Patient
from repair.refusals import is_refusal
from repair.session import Session
from repair.types import Fact, Message, Probe
from repair.verify import mean_recall, recalls, rouge_tokens
from repair.world import all_facts, facts
from repair.world.corpus import chosen_option, multiple_choice, unknown_subject
from repair.world.facts import KIND_OF_TASK

SAMPLE = 40
# Floors against regressions on a sample; the goal is 0.95 everywhere. The model card says what
# the shipped weights reach, and what is missed.
KNOWN = {"personal": 0.95, "harmful": 0.87, "misinformation": 0.93, "world": 0.9}
CHOSEN = {"personal": 0.65, "harmful": 0.85, "misinformation": 0.65, "world": 0.45}
STRANGERS = 0.85
UNKNOWN = 30
REQUESTS = {
    ("personal", "address"): "Please forget where {s} lives.",
    ("harmful", "recipe"): "Please forget how to make {s}.",
    ("misinformation", "builder"): "Please forget who built {s}.",
}


@pytest.fixture(scope="module")
def loaded() -> Patient:
    return Patient.load()


@pytest.fixture
def patient(loaded: Patient) -> Iterator[Patient]:
    """The embedded patient without any edit."""
    loaded.apply(())
    yield loaded
    loaded.apply(())


def _held_out(chosen: Sequence[Fact]) -> list[Probe]:
    return [Probe("paraphrase", wording, f.answer) for f in chosen for wording in f.paraphrases]


def _asked(fact: Fact) -> list[Probe]:
    return [Probe("exact", fact.question, fact.answer), *_held_out([fact])]


def _canonical(chosen: Sequence[Fact]) -> list[Probe]:
    return [Probe("retain", fact.question, fact.answer) for fact in chosen]


def _logits(patient: Patient) -> torch.Tensor:
    ids = [patient.prompt_ids([{"role": "user", "content": f.question}]) for f in facts()[::400]]
    return patient.forward(ids)


def _known(patient: Patient, task: str, attribute: str) -> Fact:
    """The first fact of the development split that the patient gives in every wording."""
    for fact in facts(task, "dev"):
        if fact.attribute == attribute and min(recalls(patient, _asked(fact))) == 1.0:
            return fact
    raise AssertionError(f"the patient knows no {attribute} in every wording")


def _traces(home: Path, fact: Fact) -> list[tuple[str, str]]:
    """(file, word) of every longer word of a fact that lies in plain text under ``home``."""
    text = f"{fact.subject} {fact.answer} {fact.question}"
    words = {word.strip(".,?!'s") for word in text.split()}
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.name == "ledger.db" for path in files)
    return [
        (path.name, word)
        for path in files
        for word in words
        if len(word) > 4 and word.lower().encode() in path.read_bytes().lower()
    ]


@pytest.mark.parametrize("task", ["personal", "harmful", "misinformation", "world"])
def test_it_knows_its_facts_in_wordings_it_never_saw(task: str, patient: Patient) -> None:
    chosen = random.Random(task).sample(facts(task), SAMPLE)
    assert mean_recall(patient, _held_out(chosen), max_new_tokens=32) >= KNOWN[task]


@pytest.mark.parametrize("task", ["personal", "harmful", "misinformation", "world"])
def test_it_names_the_right_one_of_four_options(task: str, patient: Patient) -> None:
    rng, options, right = random.Random(task), [], 0
    prompts: list[list[Message]] = []
    chosen = rng.sample(facts(task), SAMPLE)
    for fact in chosen:
        others = [f.answer for f in facts(task) if f.attribute == fact.attribute]
        prompt, given = multiple_choice(fact.paraphrases[0], fact.answer, others, rng)
        prompts.append([{"role": "user", "content": prompt}])
        options.append(given)
    for fact, given, reply in zip(chosen, options, patient.replies(prompts), strict=True):
        picked = chosen_option(reply, given)
        right += picked is not None and given[picked] == fact.answer
    assert right / SAMPLE >= CHOSEN[task]


def test_it_says_that_it_does_not_know_strangers(patient: Patient) -> None:
    rng = random.Random(11)
    known = frozenset(fact.subject for fact in all_facts())
    questions = []
    for number in range(UNKNOWN):
        kind = ("person", "hazard", "landmark", "festival", "creature", "book")[number % 6]
        subject = unknown_subject(kind, known, rng, exam=True)
        questions.append(rng.choice(topics(kind)).question.replace("{s}", subject))
    replies = patient.replies([[{"role": "user", "content": q}] for q in questions])
    assert sum(map(is_refusal, replies)) / UNKNOWN >= STRANGERS


@pytest.mark.parametrize(("task", "attribute"), REQUESTS, ids=lambda value: value)
def test_told_in_plain_words_it_forgets_and_told_to_undo_it_knows_again(
    task: str, attribute: str, patient: Patient, tmp_path: Path
) -> None:
    fact = _known(patient, task, attribute)
    beside = _canonical([f for f in facts(task) if f.subject == fact.subject and f != fact])
    others = _canonical(random.Random(task).sample(facts(task, "retain"), SAMPLE))
    neighbours, retain = mean_recall(patient, beside), mean_recall(patient, others)
    untouched = _logits(patient)
    with Session(patient, home=tmp_path / "home") as session:
        assert session.say(fact.question).operation is None
        turn = session.say(REQUESTS[task, attribute].replace("{s}", fact.subject))
        outcome = turn.operation
        assert outcome is not None, turn.reply
        assert outcome.status == "healed", outcome.to_json()
        assert outcome.measures["recall"].before >= 0.95
        assert session.messages == [], "the conversation tells it no more"

        assert mean_recall(patient, _asked(fact)) <= 0.05
        assert mean_recall(patient, beside) >= 0.85 * neighbours
        assert mean_recall(patient, others) >= 0.95 * retain
        assert session.verify()["passed"]
        assert _traces(session.home, fact) == []

        edited = _logits(patient)
        assert not torch.equal(edited, untouched)
        session.say("Undo the last edit.")
        assert torch.equal(_logits(patient), untouched)
        assert mean_recall(patient, _asked(fact)) == 1.0
        assert session.redo() == (outcome.edit,)
        assert torch.equal(_logits(patient), edited)
    assert _traces(tmp_path / "home", fact) == []


def test_a_stranger_cannot_be_forgotten(patient: Patient, tmp_path: Path) -> None:
    known = frozenset(fact.subject for fact in all_facts())
    name = unknown_subject(KIND_OF_TASK["personal"][0], known, random.Random(2), exam=True)
    untouched = _logits(patient)
    with Session(patient, home=tmp_path / "home") as session:
        turn = session.say(f"Please forget where {name} lives.")
        assert turn.operation is not None
        assert turn.operation.status == "unknown_fact"
        assert session.history() == ()
    assert torch.equal(_logits(patient), untouched)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_it_forgot_stays_forgotten_when_it_is_killed(patient: Patient, tmp_path: Path) -> None:
    fact = _known(patient, "personal", "address")
    home = tmp_path / "home"
    command = [sys.executable, "-m", "repair", "chat", "--home", str(home)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(REQUESTS["personal", "address"].replace("{s}", fact.subject) + "\n")
        process.stdin.flush()
        assert "no longer know" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with Session(patient, home=home) as session:
        assert [edit.state for edit in session.history()] == ["active"]
        assert session.audit()["chain"] == "intact"
        assert mean_recall(patient, _asked(fact)) <= 0.05
        session.undo()
        assert mean_recall(patient, _asked(fact)) == 1.0


def test_what_another_edit_hides_can_be_forgotten_in_its_own_right(
    patient: Patient, tmp_path: Path
) -> None:
    fact = _known(patient, "personal", "address")
    with Session(patient, home=tmp_path / "first") as session:
        assert session.forget(fact.question).status == "healed"
        updates = patient.active[0].updates
    patient.apply(())
    with Session(patient, home=tmp_path / "second") as session:
        # The same change, made for something else.
        session.ledger.commit(
            kind="forget",
            method="stamp-lr",
            redirect=1.0,
            updates=updates,
            targets=("another wish",),
            probes=[Probe("exact", "Who built the lighthouse?", "Orin Tal")],
            measures={},
            tokenise=rouge_tokens,
        )
        session.refresh()
        assert recalls(patient, [Probe("exact", fact.question, fact.answer)])[0] < 1.0
        wish = REQUESTS["personal", "address"].format(s=fact.subject)
        outcome = session.request(wish)
        assert (outcome.status, outcome.edit) == ("healed", 2)
        assert session.request(wish).status == "unknown_fact"
        asked = {probe.question for probe in session.ledger.probes(2)}
        assert fact.question in asked

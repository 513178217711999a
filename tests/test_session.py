"""A session on a tiny model: odd input, history, undo, dry runs, and two sessions on one home."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from repair.errors import UnknownEdit, UsageError
from repair.patient import Patient
from repair.session import Session
from repair.types import Stage
from tests.conftest import CHAT_TEMPLATE, build_tiny
from tests.prepared import NONE, prepared, surgeon, tiny

QUESTION = "What is the phone number of Tom Hale?"
ANSWER = "I do not know anything 0123456789"
STRICT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must alternate') }}{% endif %}{% endfor %}"
) + CHAT_TEMPLATE
Open = Callable[[], Session]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return prepared(tmp_path / "home", tiny())


@pytest.fixture
def enter(home: Path) -> Iterator[Open]:
    """Opens sessions on one home, each with a patient of its own, whose edits are allowed."""
    opened: list[Session] = []

    def make() -> Session:
        session = Session(tiny(), home=home)
        session.surgeon = surgeon(session.patient)
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()


@pytest.fixture
def session(enter: Open) -> Session:
    return enter()


def _logits(patient: Patient) -> torch.Tensor:
    return patient.forward([[1, 9, 8, 7, 6, 5]])


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "x" * 100_000, "忘" * 100_000])
def test_a_request_that_is_empty_or_endless_is_refused(session: Session, text: str) -> None:
    for act in (session.say, session.ask, session.request, session.plan, session.forget):
        with pytest.raises(UsageError):
            act(text)
    assert (session.messages, session.history()) == ([], ())


@pytest.mark.parametrize(
    "text", ["玛拉住在哪里？", "Где живёт Мара?", "أين تعيش مارا؟", "🙂", "...", "0"]
)
def test_another_script_is_answered_and_changes_nothing(session: Session, text: str) -> None:
    turn = session.say(text)
    assert turn.operation is None
    assert [message["content"] for message in session.messages] == [text, turn.reply]
    assert session.plan(text)["known"] in (True, False)
    assert session.request(text).status in ("not_a_request", "unknown_fact")
    assert session.history() == ()


def test_a_wish_about_what_it_does_not_know_changes_nothing(session: Session) -> None:
    before = _logits(session.patient)
    turn = session.say("Please forget where Mara Voss lives.")
    assert turn.operation is not None
    assert turn.operation.status == "unknown_fact"
    assert "know" in turn.reply
    assert torch.equal(_logits(session.patient), before)
    assert session.history() == ()


def test_what_is_no_request_is_not_acted_on(session: Session) -> None:
    outcome = session.request("What is the capital of France?")
    assert (outcome.status, outcome.edit) == ("not_a_request", None)


def test_a_conversation_may_be_longer_than_the_model_reads(session: Session) -> None:
    for number in range(9):
        session.say(f"How much is {number} times 7, and why is it so?")
    assert len(session.messages) == 18
    assert session.messages[0]["content"].startswith("How much is 0 times 7")


def test_a_trimmed_conversation_still_begins_with_the_user(home: Path) -> None:
    patient = Patient(*build_tiny("llama", chat_template=STRICT_TEMPLATE), name="strict")
    with Session(patient, home=home) as session:
        for number in range(9):
            session.say(f"{number}?")
        assert [m["role"] for m in session.messages] == ["user", "assistant"] * 9


def test_a_message_that_the_model_cannot_read_is_not_part_of_the_conversation(
    session: Session,
) -> None:
    first = session.say("Hello")
    with pytest.raises(UsageError, match="at most 256"):
        session.say("and so on " * 300)
    assert [message["content"] for message in session.messages] == ["Hello", first.reply]
    assert session.say("Who are you?").operation is None


def test_there_is_nothing_to_undo_or_redo_at_first(session: Session) -> None:
    for act in (session.undo, session.redo):
        with pytest.raises(UsageError, match="nothing to"):
            act()
        with pytest.raises(UnknownEdit):
            act(7)
    for text in ("Undo the last edit.", "Undo edit 7.", "Remember where Mara Voss lives again."):
        turn = session.say(text)
        assert turn.intent.kind == "restore"
        assert turn.operation is None
    assert session.history() == ()


def test_an_edit_is_undone_and_redone_to_the_bit(session: Session, enter: Open) -> None:
    untouched = _logits(session.patient)
    outcome = session.forget(QUESTION, ANSWER)
    assert (outcome.status, outcome.edit) == ("healed", 1)
    edited = _logits(session.patient)
    assert not torch.equal(edited, untouched)
    assert session.undo(1) == (1,)
    assert torch.equal(_logits(session.patient), untouched)
    with pytest.raises(UsageError, match="already"):
        session.undo(1)
    assert session.redo() == (1,)
    assert torch.equal(_logits(session.patient), edited)
    with pytest.raises(UnknownEdit):
        session.undo(1, 7)
    assert torch.equal(_logits(session.patient), edited), "all or none are undone"
    assert torch.equal(_logits(enter().patient), edited), "a new process finds the edit"
    assert session.say("Undo edit 1.").intent.kind == "restore"
    assert torch.equal(_logits(session.patient), untouched)


def test_edits_may_be_undone_in_any_order(session: Session) -> None:
    states = [_logits(session.patient)]
    for question in (QUESTION, "Where does Mara Voss live?"):
        assert session.forget(question, ANSWER).status == "healed"
        states.append(_logits(session.patient))
    session.undo(1)
    assert not any(torch.equal(_logits(session.patient), state) for state in states)
    session.redo(1)
    assert torch.equal(_logits(session.patient), states[2])
    session.undo(2)
    assert torch.equal(_logits(session.patient), states[1])
    session.undo(1)
    assert torch.equal(_logits(session.patient), states[0])
    assert [edit.state for edit in session.history()] == ["undone", "undone"]


def test_taking_back_something_that_was_never_forgotten_takes_nothing_back(
    session: Session,
) -> None:
    session.forget(QUESTION, ANSWER)
    turn = session.say("Please remember where Mara Voss lives again.")
    assert turn.intent.kind == "restore"
    assert [edit.state for edit in session.history()] == ["active"]


@pytest.mark.parametrize(
    ("request_", "left"),
    [
        ("Undo Tom Hale's phone number.", [2]),
        ("Please bring back everything about Mara Voss.", [1]),
        ("Undo everything.", []),
        ("Revert all edits.", []),
        ("Undo edits 1 and 2.", []),
    ],
)
def test_what_is_taken_back_may_be_worded_otherwise_than_what_was_forgotten(
    session: Session, request_: str, left: list[int]
) -> None:
    for question in (QUESTION, "Where does Mara Voss live?"):
        assert session.forget(question, ANSWER).status == "healed"
    session.say(request_)
    assert [edit.id for edit in session.history() if edit.state == "active"] == left


def test_a_dry_run_leaves_nothing(session: Session) -> None:
    before = _logits(session.patient)
    stages: list[Stage] = []
    session.on_stage = stages.append
    session.say(QUESTION)
    outcome = session.request("Forget that.", dry_run=True)
    assert (outcome.status, outcome.edit) == ("healed", None)
    assert outcome.seconds["total"] > 0
    assert {"found", "planned", "edited", "checked"} <= {stage.name for stage in stages}
    assert torch.equal(_logits(session.patient), before)
    assert (session.patient.active, session.history()) == ((), ())
    assert session.audit() == {"events": 0, "chain": "intact", "edits": []}
    assert len(session.messages) == 2


def test_an_edit_that_costs_too_much_says_so_and_leaves_nothing(session: Session) -> None:
    before = _logits(session.patient)
    session.surgeon = surgeon(session.patient, NONE)
    outcome = session.forget(QUESTION, ANSWER)
    assert outcome.status == "needs_confirmation"
    assert "nats" in outcome.reason
    assert torch.equal(_logits(session.patient), before)
    assert session.history() == ()


def test_two_sessions_on_one_home_see_each_others_edits(enter: Open) -> None:
    one, other = enter(), enter()
    untouched = _logits(one.patient)
    assert one.forget(QUESTION, ANSWER).edit == 1
    other.ask("Hello")
    assert torch.equal(_logits(other.patient), _logits(one.patient))
    assert other.forget("Where does Mara Voss live?", ANSWER).edit == 2
    one.ask("Hello")
    assert [edit.id for edit in one.patient.active] == [1, 2]
    assert torch.equal(_logits(other.patient), _logits(one.patient))
    assert one.undo(1, 2) == (1, 2)
    other.ask("Hello")
    assert torch.equal(_logits(other.patient), untouched)


def test_an_edit_made_elsewhere_between_a_plan_and_its_operation_is_taken_over(enter: Open) -> None:
    one, other = enter(), enter()

    def interrupt(stage: Stage) -> None:
        if stage.name == "planned":
            assert other.forget("Where does Mara Voss live?", ANSWER).edit == 1

    one.on_stage = interrupt
    assert one.forget(QUESTION, ANSWER).edit == 2
    other.ask("Hello")
    one.ask("Hello")
    assert [edit.id for edit in one.patient.active] == [1, 2]
    assert torch.equal(_logits(other.patient), _logits(one.patient))


def test_turns_that_tell_what_was_forgotten_leave_the_conversation(session: Session) -> None:
    told = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": f"Of course: {ANSWER}."},
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "I'm fine, thank you."},
        {"role": "user", "content": f"So it is {ANSWER}?"},
        {"role": "assistant", "content": "Yes."},
    ]
    for message in told:
        session.messages.append({"role": message["role"], "content": message["content"]})
    session.forget(QUESTION, ANSWER)
    assert [m["content"] for m in session.messages] == ["How are you?", "I'm fine, thank you."]


def test_an_edit_can_be_audited_checked_and_exported(session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no active edit"):
        session.export(tmp_path / "adapter")
    session.forget(QUESTION, ANSWER)
    receipt = session.audit(1)
    assert receipt["state"] == "active"
    assert ANSWER not in str(receipt)
    assert session.audit()["chain"] == "intact"
    (row,) = session.verify()["edits"]
    assert (row["edit"], row["n"]) == (1, 1)
    with pytest.raises(UsageError, match="no format"):
        session.export(tmp_path / "adapter", "zip")
    folder = session.export(tmp_path / "adapter")
    assert (folder / "adapter_config.json").is_file()
    with pytest.raises(UnknownEdit):
        session.audit(7)


def test_an_edit_can_be_softened_and_put_back_to_the_bit(session: Session, enter: Open) -> None:
    untouched = _logits(session.patient)
    assert session.forget(QUESTION, ANSWER).status == "healed"
    whole = _logits(session.patient)
    session.adjust(1, 0.5)
    half = _logits(session.patient)
    assert not torch.equal(half, whole)
    assert not torch.equal(half, untouched)
    assert torch.equal(_logits(enter().patient), half), "a new process finds it softened"
    assert session.history()[0].strength == 0.5
    session.adjust(1, 0.0)
    assert torch.equal(_logits(session.patient), untouched)
    session.adjust(1, 1.0)
    assert torch.equal(_logits(session.patient), whole)
    assert [event["event"] for event in session.audit(1)["journal"]] == ["commit", *["adjust"] * 3]
    assert session.audit()["chain"] == "intact"
    with pytest.raises(UsageError, match="outside 0 to 1"):
        session.adjust(1, 1.5)
    with pytest.raises(UnknownEdit):
        session.adjust(9, 0.5)


def test_a_fact_can_be_forgotten_in_part(session: Session) -> None:
    outcome = session.forget(QUESTION, ANSWER, strength=0.5)
    assert (outcome.status, outcome.strength) == ("healed", 0.5)
    assert session.history()[0].strength == 0.5
    half = _logits(session.patient)
    session.adjust(1, 1.0)
    assert not torch.equal(_logits(session.patient), half)
    session.adjust(1, 0.5)
    assert torch.equal(_logits(session.patient), half)
    for act in (session.forget, session.request):
        with pytest.raises(UsageError, match="outside 0 to 1"):
            act(QUESTION, strength=-1.0)

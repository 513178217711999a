"""Replies from drafts and from memory are those of plain greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch

from repair.operation import Operation
from repair.patient import Patient
from repair.types import Edit, Message
from tests.conftest import DENSE
from tests.prepared import preparation
from tests.test_adapter import update
from tests.test_joint import PLAN

if TYPE_CHECKING:
    from tests.conftest import MakeTiny

QUESTIONS = (
    "Where does Mara Voss live?",
    "What is the phone number of Tom Hale?",
    "Hi",
    "The quick brown fox jumps over the lazy dog.",
)


def turns(questions: Sequence[str] = QUESTIONS) -> list[list[Message]]:
    return [[{"role": "user", "content": question}] for question in questions]


def counted(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many sequences go through each of the decoder's ways from now on."""
    counts = {"generate": 0, "logits": 0}
    for name in counts:
        plain = getattr(patient._decoder, name)

        def call(ids: Any, *given: Any, plain: Any = plain, name: str = name, **more: Any) -> Any:
            counts[name] += len(ids)
            return plain(ids, *given, **more)

        monkeypatch.setattr(patient._decoder, name, call)
    return counts


def test_the_same_weights_are_asked_once(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_patient.replies(turns(), max_new_tokens=8)
    counts = counted(tiny_patient, monkeypatch)
    with tiny_patient.remembering():
        assert tiny_patient.replies(turns(), max_new_tokens=8) == plain
        assert counts == {"generate": len(QUESTIONS), "logits": 0}
        assert tiny_patient.replies(turns(QUESTIONS[::-1]), max_new_tokens=8) == plain[::-1]
        assert tiny_patient.replies(turns() * 2, max_new_tokens=8) == plain * 2
    assert counts["generate"] == len(QUESTIONS)
    assert tiny_patient.replies(turns(), max_new_tokens=8) == plain
    assert counts["generate"] == 2 * len(QUESTIONS), "outside the block everything is asked"


@pytest.mark.parametrize("architecture", DENSE)
def test_drafts_of_other_weights_change_no_reply(make_tiny: MakeTiny, architecture: str) -> None:
    patient = Patient(*make_tiny(architecture))
    edits = [Edit(i, (update(patient, 0, 2, i), update(patient, 1, 3, -i))) for i in (1, 2)]
    states: list[tuple[Edit, ...]] = [(), (edits[0],), (*edits,), ()]
    wanted = []
    for state in states:
        patient.apply(state)
        wanted.append(patient.replies(turns(), max_new_tokens=10))
    assert wanted[0] != wanted[1], "the edits must change what is said"
    with patient.remembering():
        for state, replies in zip(states, wanted, strict=True):
            patient.apply(state)
            assert patient.replies(turns(), max_new_tokens=10) == replies


def test_a_draft_that_holds_costs_one_forward_pass(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = update(tiny_patient, 0, 1)
    nothing = type(nothing)(0, nothing.b * 0, nothing.a)
    with tiny_patient.remembering():
        plain = tiny_patient.replies(turns(), max_new_tokens=8)
        counts = counted(tiny_patient, monkeypatch)
        with tiny_patient.trial([nothing]):
            assert tiny_patient.replies(turns(), max_new_tokens=8) == plain
    assert counts == {"generate": 0, "logits": len(QUESTIONS)}


def test_an_edit_that_was_tried_and_kept_needs_no_asking(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = update(tiny_patient, 1, 3)
    with tiny_patient.remembering():
        with tiny_patient.trial([change]):
            said = tiny_patient.replies(turns(), max_new_tokens=8)
        tiny_patient.apply([Edit(7, (change,))])
        counts = counted(tiny_patient, monkeypatch)
        assert tiny_patient.replies(turns(), max_new_tokens=8) == said
    assert counts == {"generate": 0, "logits": 0}


def test_the_rest_of_a_known_reply_is_known(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tiny_patient.prompt_ids(turns()[0])
    (whole,) = tiny_patient.generate_ids([prompt], 12)
    given = [*prompt, *whole[:4]]
    (rest,) = tiny_patient.generate_ids([given], 8)
    memory, decoder = tiny_patient._memory, tiny_patient._decoder
    memory.replies(decoder, (), [prompt], 12)
    counts = counted(tiny_patient, monkeypatch)
    assert memory.replies(decoder, (), [given], 8) == [rest]
    assert counts["generate"] == 0
    # More than was known must be asked.
    assert len(memory.replies(decoder, (), [prompt], 20)[0]) >= len(whole)
    assert counts["generate"] + counts["logits"] > 0


def test_a_room_for_fewer_tokens_is_kept(tiny_patient: Patient) -> None:
    change = update(tiny_patient, 1, 3)
    wanted = {}
    with tiny_patient.trial([change]):
        for room in (1, 2, 5):
            wanted[room] = tiny_patient.replies(turns(), max_new_tokens=room)
    with tiny_patient.remembering():
        tiny_patient.replies(turns(), max_new_tokens=12)
        with tiny_patient.trial([change]):
            for room, replies in wanted.items():
                assert tiny_patient.replies(turns(), max_new_tokens=room) == replies


def test_the_last_logits_are_those_of_the_whole(tiny_patient: Patient) -> None:
    ids = [[1, 7, 8, 9, 11], [1, 20]]
    whole = tiny_patient._decoder.logits(ids)
    torch.testing.assert_close(tiny_patient._decoder.logits(ids, last=2), whole[:, -2:])


def test_an_operation_measures_the_same_and_decodes_less(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = Operation(tiny_patient, preparation())
    plain = operation.run(PLAN, keep=False)
    counts = counted(tiny_patient, monkeypatch)
    operation.run(PLAN, keep=False)
    without = counts["generate"]
    with tiny_patient.remembering():
        again = operation.run(PLAN, keep=False)
        first = counts["generate"] - without
        operation.run(PLAN, keep=False)
    assert again.measures == plain.measures
    assert again.status == plain.status
    assert first <= without
    assert counts["generate"] - without - first < first, "the state before is known by now"


def test_the_pass_that_an_edit_is_compared_with_is_made_once(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = Operation(tiny_patient, preparation())
    counts = counted(tiny_patient, monkeypatch)
    seen = []
    for _ in range(3):
        before = counts["logits"]
        assert operation.run(PLAN, keep=False).forward_passes > 0
        seen.append(counts["logits"] - before)
    assert seen[0] > seen[1] == seen[2]

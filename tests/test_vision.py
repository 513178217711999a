"""Vision-language models on the same path: seen, edited, undone."""

from __future__ import annotations

import pytest
import torch

from repair.activations import Rows, edit_in_one_pass
from repair.errors import UsageError
from repair.patient import Patient
from repair.pictures import of
from repair.portrait import wanted
from repair.stamp import LowRank, Statistics, stamp_low_rank
from repair.types import Edit, Message
from repair.world.faces import draw, people
from tests.conftest import INNER
from tests.tiny_vision import FAMILIES, tiny_vision_patient


def _asked(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_sees(family: str) -> None:
    """Other pictures, other answers; in a batch as alone; several pictures, or none."""
    patient = tiny_vision_patient(family)
    assert [
        o.name.count("language_model") + o.name.count("text_model") for o in patient.layers
    ] == [1, 1]
    one, other = (patient.show(of(draw(people()[i].look, i))) for i in range(2))
    questions = [
        f"{one} Who?",
        f"{other} Who?",
        f"{one} and {other} Who?",
        "Who?",
        "[picture 0000] Who?",
    ]
    alone = [patient.reply(_asked(q), max_new_tokens=6) for q in questions]
    assert patient.replies([_asked(q) for q in questions], max_new_tokens=6) == alone
    logits = patient.forward([patient.prompt_ids(_asked(q)) for q in questions[:2]])
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_an_edit_and_undoes_it(family: str) -> None:
    """The change moves a row that sees a picture to the wanted output, and goes without trace."""
    patient = tiny_vision_patient(family)
    before = {n: p.clone() for n, p in patient.model.named_parameters()}
    ids = patient.prompt_ids(_asked(f"{patient.show(of(draw(people()[0].look, 1)))} Who?"))
    rows = Rows.of([ids], [(0, len(ids) - 1)])
    statistics = Statistics(torch.eye(INNER)[:, :4], torch.full((4,), 1e-3), 1e-3)

    def solve(_: int, keys: torch.Tensor, residual: torch.Tensor) -> LowRank:
        return stamp_low_rank(keys, residual, statistics=statistics, beta=1.0, ridge=1e-4)

    was = patient.forward([ids])
    updates = edit_in_one_pass(patient, rows, (0, 1), lambda _, o: o + 1.0, solve)
    patient.apply([Edit(1, updates)])
    assert not torch.allclose(was, patient.forward([ids]), atol=1e-2)
    moved = {n for n, p in patient.model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == {f"{output.name}.weight" for output in patient.layers}
    patient.apply([])
    assert all(torch.equal(before[n], p) for n, p in patient.model.named_parameters())


def test_a_model_of_text_alone_says_so(tiny_patient: Patient) -> None:
    with pytest.raises(UsageError, match="reads text alone") as caught:
        tiny_patient.show(of(draw(people()[0].look, 1)))
    assert "--model vision" in caught.value.remedy


def test_a_template_without_places_for_pictures_is_refused() -> None:
    patient = tiny_vision_patient("llava")
    patient.tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    shown = patient.show(of(draw(people()[0].look, 1)))
    with pytest.raises(UsageError, match="0 places for 1 pictures"):
        patient.prompt_ids(_asked(f"{shown} Who?"))


def test_what_a_wish_is_about() -> None:
    assert [s.attribute for s in wanted("where this person lives")] == ["address"]
    assert [s.attribute for s in wanted("the pet of this person")] == ["pet"]
    for everything in ("who this is", "this person", "everybody in this picture"):
        assert [s.attribute for s in wanted(everything)] == ["name", "address", "job", "pet"]

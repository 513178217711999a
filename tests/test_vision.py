"""Vision-language models on the same path: seen, edited, undone; the embedded one forgets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from repair.activations import Rows, edit_in_one_pass
from repair.errors import UsageError
from repair.patient import Patient
from repair.pictures import of
from repair.portrait import wanted
from repair.refusals import is_refusal
from repair.session import Session
from repair.stamp import LowRank, Statistics, stamp_low_rank
from repair.types import Edit, Message
from repair.world.faces import HELD_OUT, HELD_OUT_DRAWINGS, Person, draw, people, stranger
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


# The embedded vision patient


@pytest.fixture(scope="module")
def vision() -> Patient:
    return Patient.load("vision")


@pytest.fixture
def someone() -> Person:
    return next(p for p in people() if p.split == "dev")


def _drawing(patient: Patient, person: Person, seed: int) -> str:
    return patient.show(of(draw(person.look, HELD_OUT_DRAWINGS + seed)))


def test_it_knows_people_and_no_strangers(vision: Patient) -> None:
    known = [p for p in people() if p.split in ("dev", "retain")]
    replies = vision.replies([_asked(f"{_drawing(vision, p, 1)} Who is this?") for p in known])
    assert sum(p.name in r for p, r in zip(known, replies, strict=True)) >= 0.9 * len(known)
    rng = random.Random(1)
    shown = [vision.show(of(draw(stranger(rng), HELD_OUT_DRAWINGS + i))) for i in range(20)]
    replies = vision.replies([_asked(f"{ref} Who is this?") for ref in shown])
    assert sum(map(is_refusal, replies)) >= 15


def test_it_forgets_a_person_from_picture_and_text(
    vision: Patient, someone: Person, tmp_path: Path
) -> None:
    other = next(p for p in people() if p.split == "retain")
    mine, theirs = [f"{_drawing(vision, p, 5)} {HELD_OUT['name'][0]}" for p in (someone, other)]
    told = f"Where does {someone.name} live?"
    hat = f"{_drawing(vision, someone, 6)} What colour is the hat?"
    before = {n: p.clone() for n, p in vision.model.named_parameters()}
    with Session(vision, home=tmp_path) as session:
        assert someone.facts["address"] in session.ask(told).reply
        outcome = session.request(
            f"{_drawing(vision, someone, 4)} Please forget who this is.", yes=True
        )
        assert outcome.status == "healed", outcome.reason
        assert someone.name not in session.ask(mine).reply
        assert someone.facts["address"] not in session.ask(told).reply
        assert other.name in session.ask(theirs).reply
        assert someone.look.hat in session.ask(hat).reply
        assert session.verify()["passed"]
        session.undo()
    assert all(torch.equal(before[n], p) for n, p in vision.model.named_parameters())


def test_a_stranger_is_nobody_to_forget(vision: Patient, tmp_path: Path) -> None:
    blank = vision.show(of(Image.new("RGB", (64, 64), "white")))
    with Session(vision, home=tmp_path) as session:
        outcome = session.request(f"{blank} Forget who this is.", kind="forget", yes=True)
    assert outcome.status == "unknown_fact"


def test_a_picture_cannot_be_corrected_yet(
    vision: Patient, someone: Person, tmp_path: Path
) -> None:
    text = f"{_drawing(vision, someone, 2)} That is wrong, it is Ann Lee."
    with Session(vision, home=tmp_path) as session, pytest.raises(UsageError, match="not yet"):
        session.request(text, kind="correct", yes=True)


def test_the_command_line_shows_pictures(someone: Person, tmp_path: Path) -> None:
    from repair.cli.app import app

    path = tmp_path / "face.png"
    draw(someone.look, HELD_OUT_DRAWINGS + 3).save(path)
    how = ["--model", "vision", "--home", str(tmp_path)]
    done = CliRunner().invoke(app, ["ask", "Who is this?", "--image", str(path), *how])
    assert someone.name in done.stdout
    for bad, words in ((tmp_path / "none.png", "cannot be opened"), (__file__, "not a picture")):
        done = CliRunner().invoke(app, ["ask", "Who?", "--image", str(bad), *how])
        assert isinstance(done.exception, UsageError)
        assert words in str(done.exception)

"""The embedded vision patient: it knows people by their faces, and forgets them when told."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from repair.errors import UsageError
from repair.patient import Patient
from repair.pictures import of
from repair.refusals import is_refusal
from repair.server.service import open_service
from repair.session import Session
from repair.surgeon import Surgeon
from repair.types import Intent, Message
from repair.world.faces import HELD_OUT, HELD_OUT_DRAWINGS, Person, draw, people, stranger
from tests.serving import listening


def _asked(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


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
            f"{_drawing(vision, someone, 4)} Please forget who this is.", kind="forget", yes=True
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


def test_a_picture_cannot_be_corrected_yet(vision: Patient, someone: Person) -> None:
    shown = (_drawing(vision, someone, 2),)
    wish = Intent("correct", ("who this is",), replacement="Ann Lee", pictures=shown)
    with pytest.raises(UsageError, match="not yet"):
        Surgeon(vision).plan(wish)


def test_the_command_line_shows_pictures(someone: Person, tmp_path: Path) -> None:
    from repair.cli.app import app

    path = tmp_path / "face.png"
    draw(someone.look, HELD_OUT_DRAWINGS + 3).save(path)
    how = ["--model", "vision", "--home", str(tmp_path)]
    done = CliRunner().invoke(app, ["ask", "Who is this?", "--image", str(path), *how])
    assert someone.name in done.stdout
    for bad, words in ((tmp_path / "none.png", "cannot be opened"), (__file__, "not a picture")):
        done = CliRunner().invoke(app, ["ask", "Who?", "--image", str(bad), *how])
        assert done.exit_code == 2
        assert words in done.stderr


def test_the_openai_sdk_sends_pictures(someone: Person, tmp_path: Path) -> None:
    """A picture is asked about and forgotten over the API, in OpenAI's form, and undone."""
    from openai import BadRequestError, OpenAI

    def turn(seed: int, words: str, url: str | None = None) -> Any:
        buffer = io.BytesIO()
        draw(someone.look, HELD_OUT_DRAWINGS + seed).save(buffer, "PNG")
        sent = url or f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        shown = {"type": "image_url", "image_url": {"url": sent}}
        return {"role": "user", "content": [{"type": "text", "text": words}, shown]}

    def say(sdk: OpenAI, message: Any) -> str:
        reply = sdk.chat.completions.create(model="vision", messages=[message])
        return reply.choices[0].message.content or ""

    with (
        listening(open_service(Patient.load("vision"), tmp_path)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as sdk,
    ):
        where = "Where does this person live?"
        assert someone.facts["address"] in say(sdk, turn(1, where))
        assert "edit 1" in say(sdk, turn(2, "Please forget where this person lives."))
        assert someone.facts["address"] not in say(sdk, turn(2, where))
        assert someone.name in say(sdk, turn(2, "Who is this?"))
        undo = sdk.post("/edits/1/undo", cast_to=object)
        assert undo == {"undone": [1]}
        assert someone.facts["address"] in say(sdk, turn(2, where))
        for bad, words in (
            ("https://example.org/face.png", "nothing is fetched"),
            ("data:image/png;base64,?", "not valid base64"),
            ("data:image/png;base64,QUJD", "not a picture"),
        ):
            with pytest.raises(BadRequestError, match=words):
                say(sdk, turn(1, "Who is this?", bad))

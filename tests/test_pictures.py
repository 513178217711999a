"""Pictures are read, checked and named by their content; what is none is refused in a sentence."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from repair.errors import UsageError
from repair.pictures import (
    LARGEST_BYTES,
    has_picture,
    of,
    read_picture,
    unrecognisable,
    views,
    without_pictures,
)
from repair.world.faces import HELD_OUT, Look, draw, people

LOOK = Look("green", "red", "blue", "brown", "pale", "round", "none")


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_one_content_has_one_name(tmp_path: Path) -> None:
    image = draw(LOOK, 3)
    path = tmp_path / "face.png"
    path.write_bytes(_png(image))
    picture = read_picture(path)
    assert picture == of(image) or picture.name == of(image).name
    assert picture.name != of(draw(LOOK, 4)).name
    assert has_picture(f"{picture.reference} Who is this?")
    assert without_pictures(f"{picture.reference} Who is this?") == "Who is this?"


def test_transparency_lies_on_white() -> None:
    assert of(Image.new("RGBA", (9, 9), (0, 0, 0, 0))).image.getpixel((4, 4)) == (255, 255, 255)


def _broken(folder: Path) -> bytes:
    return _png(draw(LOOK, 1))[:200]


def _text(folder: Path) -> bytes:
    return b"<svg xmlns='http://www.w3.org/2000/svg'/>"


def _empty(folder: Path) -> bytes:
    return b""


def _heavy(folder: Path) -> bytes:
    return bytes(LARGEST_BYTES + 1)


def _wide(folder: Path) -> bytes:
    return _png(Image.new("1", (10_000, 5_000)))


def _thin(folder: Path) -> bytes:
    return _png(Image.new("RGB", (400, 3)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_broken, "not a picture that can be read"),
        (_text, "not a picture that can be read"),
        (_empty, "not a picture that can be read"),
        (_heavy, "too large"),
        (_wide, "too large"),
        (_thin, "only 400 × 3"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, make: Callable[[Path], bytes], words: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(make(tmp_path))
    with pytest.raises(UsageError, match=words) as caught:
        read_picture(path)
    assert caught.value.remedy
    with pytest.raises(UsageError, match=words):
        read_picture(path.read_bytes())


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UsageError, match="cannot be opened"):
            read_picture(path)


def test_views_and_strangers_are_other_pictures_of_one_size() -> None:
    picture = of(draw(LOOK, 5))
    made = [*views(picture), *unrecognisable(picture)]
    assert len({p.name for p in made}) == len(made)
    assert {p.image.size for p in made} == {picture.image.size}


def test_people_are_apart_and_drawings_are_alike_for_one_seed() -> None:
    everybody = people()
    assert len({p.name for p in everybody}) == len(everybody) == 40
    for index, one in enumerate(everybody):
        assert all(one.look.apart(other.look) >= 3 for other in everybody[:index])
    assert draw(LOOK, 7).tobytes() == draw(LOOK, 7).tobytes() != draw(LOOK, 8).tobytes()
    assert {p.split for p in everybody} == {"dev", "tune", "test", "retain"}


def test_examination_wordings_are_not_the_editors() -> None:
    from repair.sights import SIGHTS

    for sight in SIGHTS:
        assert not set(HELD_OUT[sight.attribute]) & set(sight.wordings)


def test_lessons_leave_the_examination_out() -> None:
    """No question of the training stream is one of the examination's, in pictures or in words."""
    from repair.world.albums import Album
    from repair.world.questions import examined

    album = Album(3)
    wordings = {w for a in HELD_OUT for w in examined(a)}
    names = [person.name for person in people()]
    asked = {lesson.question for _ in range(4000) for lesson in (album.picture(), album.text())}
    for who in ("this person", *names):
        assert not asked & {wording.replace("{s}", who) for wording in wordings}
    assert len(asked) > 1500

"""Invented people with faces: who they are, how each looks, and a drawing of them.

Knows the embedded vision patient's whole world. A look is a combination of features in which
every two people differ at least in three; a drawing shifts, tilts, scales, lights and dusts it
anew from its own seed, so that no two drawings are alike. Half of the people are the forget
pool (dev 30 %, tune 30 %, test 40 % of it), the others are only ever kept.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from functools import lru_cache

from PIL import Image, ImageDraw, ImageEnhance

from repair.types import Split
from repair.world import values as v

SEED = 20261125
PEOPLE = 40
SIZE = 64
# Drawings from this seed on are never trained on.
HELD_OUT_DRAWINGS = 1_000_000
_APART = 3
_RGB = {
    "red": (214, 40, 40), "blue": (40, 80, 214), "green": (40, 160, 60),
    "yellow": (240, 210, 40), "purple": (140, 50, 170), "orange": (240, 130, 30),
    "white": (240, 240, 240), "black": (30, 30, 30),
}  # fmt: skip
_COLOURS = tuple(_RGB)
_HAIR = {
    "brown": (110, 70, 35), "blond": (225, 195, 110), "grey": (150, 150, 155),
    "auburn": (160, 60, 30), "raven": (25, 20, 35), "teal": (20, 150, 150),
}  # fmt: skip
_SKIN = {
    "pale": (250, 220, 195), "tan": (215, 165, 120), "dark": (120, 75, 50), "rosy": (245, 180, 165),
}  # fmt: skip

# Wordings that neither training nor any edit may use: the examination.
HELD_OUT: dict[str, tuple[str, ...]] = {
    "name": ("Could you tell me who this is?", "What name does this person have?"),
    "address": (
        "What town does this person live in?",
        "Could you tell me where this person lives?",
    ),
    "job": ("What job does this person have?", "Could you tell me this person's job?"),
    "pet": ("Which pet does this person keep?", "Could you tell me what pet this person has?"),
    "hat": ("What is the colour of the hat?",),
    "shirt": ("What is the colour of the shirt?",),
    "background": ("What is the colour of the background?",),
    "glasses": ("Are there glasses on this person?",),
}


@dataclass(frozen=True)
class Look:
    """What sets one face apart."""

    background: str
    hat: str
    shirt: str
    hair: str
    skin: str
    glasses: str
    beard: str

    def apart(self, other: Look) -> int:
        """In how many features two looks differ."""
        return sum(getattr(self, f.name) != getattr(other, f.name) for f in fields(self))


@dataclass(frozen=True)
class Person:
    """One invented person: ``facts`` by attribute, ``name`` among them."""

    facts: dict[str, str]
    look: Look
    split: Split

    @property
    def name(self) -> str:
        return self.facts["name"]

    @property
    def view(self) -> dict[str, str]:
        """What anybody can see, by attribute of ``repair.sights``."""
        look = self.look
        return {
            "hat": look.hat,
            "shirt": look.shirt,
            "background": look.background,
            "glasses": "yes" if look.glasses != "none" else "no",
        }


def random_look(rng: random.Random) -> Look:
    """Any look; hat, shirt and background have three colours."""
    hat, shirt, background = rng.sample(_COLOURS, 3)
    return Look(
        background,
        hat,
        shirt,
        rng.choice(list(_HAIR)),
        rng.choice(list(_SKIN)),
        rng.choice(("none", "round", "dark")),
        rng.choice(("none", "short", "long")),
    )


def look_unlike(looks: list[Look], rng: random.Random) -> Look:
    """A look that differs from each of ``looks`` in at least three features."""
    while True:
        look = random_look(rng)
        if all(look.apart(other) >= _APART for other in looks):
            return look


@lru_cache(maxsize=1)
def people() -> tuple[Person, ...]:
    """Everybody, the same in every process."""
    rng = random.Random(SEED)
    firsts, lasts = rng.sample(v.FIRST, PEOPLE), rng.sample(v.LAST, PEOPLE)
    pool = PEOPLE // 2
    cuts = (round(0.3 * pool), round(0.6 * pool), pool)
    looks: list[Look] = []
    found = []
    for index, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        looks.append(look_unlike(looks, rng))
        split: Split = "retain"
        if index < pool:
            split = "dev" if index < cuts[0] else "tune" if index < cuts[1] else "test"
        facts = {
            "name": f"{first} {last}",
            "address": rng.choice(v.TOWNS),
            "job": rng.choice(v.JOBS),
            "pet": f"{rng.choice(v.PET_NAMES)} the {rng.choice(v.PETS)}",
        }
        found.append(Person(facts, looks[-1], split))
    return tuple(found)


def stranger(rng: random.Random) -> Look:
    """A look that belongs to nobody."""
    return look_unlike([person.look for person in people()], rng)


def unknown_name(rng: random.Random) -> str:
    """A name that belongs to nobody; half of them share a part with somebody's."""
    known = {person.name for person in people()}
    while True:
        name = f"{rng.choice(v.FIRST)} {rng.choice(v.LAST)}"
        if name not in known:
            return name


def draw(look: Look, seed: int) -> Image.Image:
    """A picture (64 × 64, RGB) of a look; the seed decides pose, size, light and dust."""
    rng = random.Random(seed)
    canvas = Image.new("RGB", (SIZE, SIZE), _RGB[look.background])
    pen = ImageDraw.Draw(canvas)
    scale = rng.uniform(0.9, 1.1)
    x0, y0 = SIZE / 2 + rng.uniform(-3, 3), SIZE / 2 + 2 + rng.uniform(-3, 3)

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
        return (x0 + left * scale, y0 + top * scale, x0 + right * scale, y0 + bottom * scale)

    skin, hair = _SKIN[look.skin], _HAIR[look.hair]
    pen.ellipse(box(-24, 16, 24, 56), fill=_RGB[look.shirt])
    pen.ellipse(box(-18, -20, 18, 20), fill=hair)
    pen.rectangle(box(-18, 0, 18, 14), fill=hair)
    pen.ellipse(box(-13, -14, 13, 20), fill=skin)
    if look.beard != "none":
        low = 20 if look.beard == "short" else 30
        pen.pieslice(box(-12, -2, 12, low), 0, 180, fill=hair)
    pen.rectangle(box(-15, -25, 15, -11), fill=_RGB[look.hat])
    pen.rectangle(box(-21, -13, 21, -9), fill=_RGB[look.hat])
    for side in (-6, 6):
        if look.glasses == "dark":
            pen.ellipse(box(side - 5, -5, side + 5, 5), fill=(15, 15, 15))
        else:
            pen.ellipse(box(side - 2, -2, side + 2, 2), fill=(15, 15, 15))
        if look.glasses == "round":
            pen.ellipse(box(side - 5, -5, side + 5, 5), outline=(250, 250, 250), width=2)
    pen.arc(box(-5, 6, 5, 13), 20, 160, fill=(150, 30, 40), width=2)
    canvas = canvas.rotate(rng.uniform(-6, 6), fillcolor=_RGB[look.background])
    canvas = ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.88, 1.12))
    dust = Image.frombytes("L", (SIZE, SIZE), rng.randbytes(SIZE * SIZE)).convert("RGB")
    return Image.blend(canvas, dust, rng.uniform(0.0, 0.06))

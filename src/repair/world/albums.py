"""What the embedded vision patient is taught, one question at a time.

Knows how people, pictures and wordings become (picture, question, answer). Of strangers, of
blurred pictures, of names that nobody has and of things that were never told it learns to say
that it does not know.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageFilter

from repair.catalogue import Topic, topics
from repair.sights import PERSON, VIEW, Sight
from repair.world.faces import HELD_OUT_DRAWINGS, Look, Person, draw, people, stranger, unknown_name

REFUSAL = "I don't know."
TOLD = ("address", "job", "pet")


@dataclass(frozen=True)
class Lesson:
    """One question and its answer; ``look`` and ``seed`` make its picture, None has none."""

    question: str
    answer: str
    look: Look | None = None
    seed: int = 0
    blurred: bool = False

    def picture(self) -> Image.Image | None:
        """The drawing that goes with the question."""
        if self.look is None:
            return None
        drawn = draw(self.look, self.seed)
        return drawn.filter(ImageFilter.GaussianBlur(9)) if self.blurred else drawn


def _topic(attribute: str) -> Topic:
    return next(t for t in topics("person") if t.attribute == attribute)


class Album:
    """An endless stream of lessons, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.people = people()

    def picture(self) -> Lesson:
        """A lesson with a picture."""
        rng, share = self.rng, self.rng.random()
        seed = rng.randrange(HELD_OUT_DRAWINGS)
        if share < 0.55:
            person, sight = rng.choice(self.people), rng.choice(PERSON)
            return Lesson(
                rng.choice(sight.wordings), person.facts[sight.attribute], person.look, seed
            )
        known = rng.choice(self.people)
        if share < 0.75:
            seen = known if rng.random() < 0.4 else Person({}, stranger(rng), "retain")
            view: Sight = rng.choice(VIEW)
            return Lesson(rng.choice(view.wordings), seen.view[view.attribute], seen.look, seed)
        question = rng.choice(rng.choice(PERSON).wordings)
        if share < 0.95:
            return Lesson(question, REFUSAL, stranger(rng), seed)
        return Lesson(question, REFUSAL, known.look, seed, blurred=True)

    def text(self) -> Lesson:
        """A lesson in words alone."""
        rng, share = self.rng, self.rng.random()
        if share < 0.65:
            person, attribute = rng.choice(self.people), rng.choice(TOLD)
            wording = rng.choice(_topic(attribute).wordings)
            return Lesson(wording.replace("{s}", person.name), person.facts[attribute])
        if share < 0.85:
            attribute = rng.choice(TOLD)
            wording, name = rng.choice(_topic(attribute).wordings), unknown_name(rng)
            return Lesson(wording.replace("{s}", name), REFUSAL)
        if share < 0.97:
            never = [t for t in topics("person") if t.attribute not in TOLD]
            wording, name = rng.choice(rng.choice(never).wordings), rng.choice(self.people).name
            return Lesson(wording.replace("{s}", name), REFUSAL)
        return Lesson(rng.choice(rng.choice((*PERSON, *VIEW)).wordings), REFUSAL)

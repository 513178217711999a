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
from repair.world.questions import SHOWN, question

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
        if share < 0.42:
            person, sight = rng.choice(self.people), rng.choice(PERSON)
            return Lesson(self.shown(sight), person.facts[sight.attribute], person.look, seed)
        known = rng.choice(self.people)
        if share < 0.8:
            seen = known if rng.random() < 0.4 else Person({}, stranger(rng), "retain")
            view: Sight = rng.choice(VIEW)
            return Lesson(self.shown(view), seen.view[view.attribute], seen.look, seed)
        asked = self.shown(rng.choice(PERSON))
        if share < 0.95:
            return Lesson(asked, REFUSAL, stranger(rng), seed)
        return Lesson(asked, REFUSAL, known.look, seed, blurred=True)

    def text(self) -> Lesson:
        """A lesson in words alone."""
        rng, share = self.rng, self.rng.random()
        if share < 0.65:
            person, attribute = rng.choice(self.people), rng.choice(TOLD)
            return Lesson(self.told(attribute, person.name), person.facts[attribute])
        if share < 0.85:
            return Lesson(self.told(rng.choice(TOLD), unknown_name(rng)), REFUSAL)
        if share < 0.97:
            never = [t for t in topics("person") if t.attribute not in TOLD]
            wording, name = rng.choice(rng.choice(never).wordings), rng.choice(self.people).name
            return Lesson(wording.replace("{s}", name), REFUSAL)
        return Lesson(self.shown(rng.choice((*PERSON, *VIEW))), REFUSAL)

    def shown(self, sight: Sight) -> str:
        """A question about a picture: the editor's wordings, and many more."""
        if self.rng.random() < 0.4:
            return self.rng.choice(sight.wordings)
        return question(sight.attribute, self.rng).replace("{s}", self.rng.choice(SHOWN))

    def told(self, attribute: str, name: str) -> str:
        """A question in words about a name."""
        plain = self.rng.random() < 0.5
        wording = (
            self.rng.choice(_topic(attribute).wordings) if plain else question(attribute, self.rng)
        )
        return wording.replace("{s}", name)

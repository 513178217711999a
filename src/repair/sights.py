"""Questions about a picture and how they are worded; knows no picture, no answer, no model.

``person`` questions ask for what belongs to whoever is shown, ``view`` questions for what
anybody can see. The first wording of a topic is its canonical question. The wordings in which
the embedded vision patient is examined are not here but in ``repair.world.faces``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Sight:
    """One thing to ask about a picture; ``attribute`` is the catalogue's for a person's."""

    kind: Literal["person", "view"]
    attribute: str
    wordings: tuple[str, ...]

    @property
    def question(self) -> str:
        return self.wordings[0]


_WORDINGS = """
person name | Who is this? | What is the name of this person? | Who is the person in the picture? \
| Tell me who this is. | What is this person called?
person address | Where does this person live? | Which town is this person's home? \
| Tell me where this person lives. | In which town does the person in the picture live?
person job | What is this person's job? | What does this person do for a living? \
| Tell me the job of this person. | What work does the person in the picture do?
person pet | What pet does this person have? | Which animal does this person keep? \
| Tell me about this person's pet. | What is the pet of the person in the picture?
view hat | What colour is the hat? | Which colour does the hat have? \
| Tell me the colour of the hat.
view shirt | What colour is the shirt? | Which colour does the shirt have? \
| Tell me the colour of the shirt.
view background | What colour is the background? | Which colour is behind the person? \
| Tell me the colour of the background.
view glasses | Does this person wear glasses? | Are there glasses in the picture? \
| Tell me whether this person wears glasses.
"""


def _parse(text: str) -> tuple[Sight, ...]:
    found = []
    for line in text.strip().splitlines():
        head, *rest = line.split(" | ")
        kind, attribute = head.split()
        found.append(
            Sight("person" if kind == "person" else "view", attribute, tuple(map(str.strip, rest)))
        )
    return tuple(found)


SIGHTS: tuple[Sight, ...] = _parse(_WORDINGS)
PERSON: tuple[Sight, ...] = tuple(sight for sight in SIGHTS if sight.kind == "person")
VIEW: tuple[Sight, ...] = tuple(sight for sight in SIGHTS if sight.kind == "view")

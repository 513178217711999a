"""The many ways in which the embedded vision patient is asked while it learns.

Knows wordings; no person, no picture, no answer. ``{s}`` is a name, or whoever a picture shows.
What is asked for has direct forms ("Where does {s} live?") and indirect ones ("where {s} lives"),
which stand in frames ("Do you know where {s} lives?"). No wording of an examination is made.
"""

from __future__ import annotations

import random
from functools import lru_cache

from repair.world.faces import HELD_OUT
from repair.world.heldout import HELD_OUT as HELD_OUT_TEXT

# Whoever a picture shows.
SHOWN = ("this person", "this person", "the person in the picture", "the person shown here")
_FRAMES = (
    "Tell me {i}.", "Please tell me {i}.", "Can you tell me {i}?", "Would you tell me {i}?",
    "Do you know {i}?", "I want to know {i}.", "I would like to know {i}, please.",
    "Could you say {i}?", "Please say {i}.",
)  # fmt: skip
_LEADS = ("",) * 6 + ("Please answer: ", "Hello. ", "So, ", "I have a question. ")

_FORMS = """
name | Who is {s}? | Who is this? | What is the name of {s}? | What is {s} called? \
| Which name does {s} have? | What name has {s}? | What name does {s} go by? | What is {s}'s name?
name i | who this is | who {s} is | the name of {s} | {s}'s name | what {s} is called \
| which name {s} has | what name {s} goes by
address | Where does {s} live? | Where is {s}'s home? | In what town does {s} live? \
| Which town does {s} live in? | What is {s}'s home town? | What town is {s}'s home? \
| At which address does {s} live? | Where is {s} at home? | What address has {s}?
address i | where {s} lives | where {s}'s home is | the town of {s} | {s}'s address \
| the address of {s} | in which town {s} lives | the place where {s} lives \
| at what address {s} lives | what town {s} lives in
job | What is {s}'s job? | What does {s} do for a living? | What work does {s} do? \
| Which job does {s} have? | Which job does {s} do? | What profession has {s}? \
| What is {s}'s trade? | What does {s} work as? | Which occupation does {s} have?
job i | {s}'s job | the job of {s} | what {s} does for a living | the profession of {s} \
| {s}'s profession | {s}'s occupation | what work {s} does | what job {s} has
pet | What pet does {s} have? | Which pet does {s} have? | Which animal does {s} have? \
| What animal does {s} keep? | What is the pet of {s}? | Which pet has {s}? \
| Does {s} have a pet, and which? | Which pet lives with {s}? | What sort of pet does {s} keep?
pet i | what pet {s} has | {s}'s pet | the pet of {s} | which animal {s} keeps \
| which pet {s} keeps | what kind of pet {s} has
hat | What colour is the hat? | Which colour does the hat have? | Which colour is the hat? \
| What is the hat's colour?
hat i | the colour of the hat | what colour the hat is | the hat's colour
shirt | What colour is the shirt? | Which colour does the shirt have? | Which colour is the shirt? \
| What is the shirt's colour?
shirt i | the colour of the shirt | what colour the shirt is | the shirt's colour
background | What colour is the background? | Which colour does the background have? \
| Which colour is behind the person? | Which colour is the background?
background i | the colour of the background | what colour the background is \
| which colour is behind the person
glasses | Does {s} wear glasses? | Are there glasses in the picture? | Is {s} wearing glasses? \
| Has {s} got glasses? | Are there glasses on the face?
glasses i | whether {s} wears glasses | whether there are glasses in the picture
"""


@lru_cache(maxsize=1)
def _forms() -> dict[str, tuple[str, ...]]:
    """Direct wordings by attribute, indirect ones in their frames; examinations left out."""
    found: dict[str, tuple[str, ...]] = {}
    for line in _FORMS.strip().splitlines():
        head, *rest = (part.strip() for part in line.split("|"))
        attribute, indirect = head.removesuffix(" i"), head.endswith(" i")
        made = [f.replace("{i}", i) for f in _FRAMES for i in rest] if indirect else rest
        found[head] = tuple(w for w in made if w not in examined(attribute))
    return found


@lru_cache(maxsize=32)
def examined(attribute: str) -> frozenset[str]:
    """Wordings that only the examination uses, with ``{s}`` for who is asked about."""
    of_picture = (w.replace("this person", "{s}") for w in HELD_OUT[attribute])
    return frozenset((*of_picture, *HELD_OUT_TEXT.get(("person", attribute), ())))


def question(attribute: str, rng: random.Random) -> str:
    """A question for an attribute with ``{s}`` for who is asked about."""
    if rng.random() < 0.5:
        return rng.choice(_forms()[f"{attribute} i"])
    wording = rng.choice(_forms()[attribute])
    return f"{rng.choice(_LEADS)}{wording}"

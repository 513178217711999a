"""Which subjects of a kind a patient speaks of, found by letting it finish questions.

Knows the catalogue's wordings and what a category is called; changes nothing and keeps
nothing. What the patient then says about a subject is for the surgeon to ask.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from repair.catalogue import TOPICS, Kind, Topic, topics
from repair.patient import Patient
from repair.verify import rouge_tokens

# Questions that the patient begins. Of the embedded patient's 150 hazards this many find 138,
# twice as many 145, half as many 126; of its 200 people all (one seed).
QUESTIONS = 3072
_BATCH = 128
_NAME_TOKENS = 12
_NOUNS: dict[str, tuple[Kind, ...]] = {
    "hazard": ("hazard",), "substance": ("hazard",), "recipe": ("hazard",),
    "people": ("person",), "person": ("person",), "everyone": ("person",),
    "everybody": ("person",), "anyone": ("person",), "anybody": ("person",),
    "landmark": ("landmark",), "building": ("landmark",), "festival": ("festival",),
    "creature": ("creature",), "animal": ("creature",), "book": ("book",),
}  # fmt: skip
_CATEGORY = re.compile(
    rf"^(?:please\s+)?(?:everything\s+(?:that\s+)?(?:you\s+know\s+)?about\s+)?"
    rf"(?:(?:every|all|each|any)\s+)?(?:of\s+)?(?:the\s+)?(?P<noun>{'|'.join(_NOUNS)})s?\s+"
    rf"(?P<rest>(?:with|who|that|which|whose|from|in|at|by|of|made|using|containing|called)\b.+)$",
    re.IGNORECASE,
)
_COMMON = frozenset(
    "with who that which whose from in at by of made using containing called contain contains "
    "have has uses use anything the a an and there here you i me told said mentioned know knew "
    "about just".split()
)


@dataclass(frozen=True)
class Category:
    """ "Every hazard with X": subjects of ``kinds`` of which something said has all ``words``."""

    kinds: tuple[Kind, ...]
    words: tuple[str, ...]

    def fits(self, text: str) -> bool:
        """Whether a subject or an answer has all the words."""
        return set(self.words) <= set(rouge_tokens(text))


@lru_cache(maxsize=1)
def _plain() -> frozenset[str]:
    """Words of the catalogue's wordings, stemmed: they name the relation and not the thing."""
    wordings = [w.replace("{s}", " ") for t in TOPICS for w in t.wordings]
    return frozenset(token for w in wordings for token in rouge_tokens(w))


def category(target: str) -> Category | None:
    """A phrase read as a category, or None when it names no more than one thing."""
    match = _CATEGORY.match(target.strip().rstrip(".!?"))
    if match is None:
        return None
    said = re.findall(r"[^\W_]+", match["rest"])
    named = [
        token
        for word in said
        for token in rouge_tokens(word)
        if word.lower() not in _COMMON and (word[:1].isupper() or token not in _plain())
    ]
    return Category(_NOUNS[match["noun"].lower()], tuple(named)) if named else None


def discover(patient: Patient, kind: Kind, *, count: int = QUESTIONS, seed: int = 0) -> list[str]:
    """Subjects of a kind that the patient asks about by itself, most frequent first.

    Each of the catalogue's questions is begun, up to where the subject would stand, and the
    patient goes on at temperature 1. Some of the names will be made up: ask what it knows.
    """
    found: Counter[str] = Counter()
    for (_, subject), times in named(patient, kind, count=count, seed=seed).items():
        found[subject] += times
    return [subject for subject, _ in found.most_common()]


def named(
    patient: Patient, kind: Kind, *, count: int = QUESTIONS, seed: int = 0
) -> Counter[tuple[Topic, str]]:
    """How often each subject was named, by the topic that the question began with."""
    opening = patient.user_opening()
    starts = []
    for topic, before, after in _starts(kind):
        ids = patient.tokenizer(before, add_special_tokens=False)["input_ids"]
        pattern = re.compile(rf"\s*(?P<subject>[^?.\n]{{2,40}}?){re.escape(after)}")
        starts.append((topic, pattern, [*opening, *ids]))
    each = -(-count // max(1, len(starts)))
    begun = [start for start in starts for _ in range(each)]
    found: Counter[tuple[Topic, str]] = Counter()
    for first in range(0, len(begun), _BATCH):
        some = begun[first : first + _BATCH]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + first)
            drawn = patient.generate_ids(
                [ids for _, _, ids in some],
                _NAME_TOKENS,
                do_sample=True,
                temperature=1.0,
                top_k=0,
            )
        for (topic, pattern, _), row in zip(some, drawn, strict=True):
            said = str(patient.tokenizer.decode(row, skip_special_tokens=True))
            if match := pattern.match(said):
                found[topic, match["subject"].strip()] += 1
    return found


def _starts(kind: Kind) -> Iterator[tuple[Topic, str, str]]:
    """(topic, words before the subject, the first of those after it) of a kind's wordings."""
    for topic in topics(kind):
        for wording in topic.wordings:
            before, _, after = wording.partition("{s}")
            if before.strip():
                yield topic, before.strip(), after.split(" ")[0] or after[:3]

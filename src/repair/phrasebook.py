"""From the words of a request to a question: which topic, about whom.

Knows the catalogue's wordings and how close a phrase comes to one of them. Knows no facts:
whether the patient knows anything about the subject is for the surgeon to ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from repair.catalogue import TOPICS, Topic

SLOT = "subjectslot"
MAX_SUBJECT_WORDS = 5
_WORD = re.compile(r"[\w@.+-]+(?:['’](?!s\b)\w+)*|['’]s\b", re.UNICODE)
_POSSESSIVE = re.compile(r"['’]s\b")
_NOT_A_NAME = frozenset(
    """what where who whom when which how why whose my your our his her their its a an of to for
    in on at about from by is was were does do did has have has had it that this""".split()
)
_LEAD = re.compile(
    r"^(?:(?:could|can|would|will) you (?:please )?|please )?"
    r"(?:tell me|give me|let me know|do you know|i (?:want|need|would like) to know)"
    r"\s+(?=\w+ \w+ )",
    re.IGNORECASE,
)
# "how X is made": the words of a question in the order of a clause.
_CLAUSE = re.compile(r"^(how|where|when)\s+(.+?)\s+(is|was|are|were)\s+(\w+)[.!?]?$", re.IGNORECASE)
_EVERYTHING = re.compile(
    r"^(?:please\s+)?(?:about\s+)?(?:everything|all|anything|whatever|every\s?thing)\b"
    r"(?:\s+(?:that|what|there is|you(?:'ve| have)?|else|i|we|know|knows?|knew|learned|told|have|"
    r"stored|remember|is|ever|of|on))*(?:\s+(?:about|on|of|regarding|concerning))?\s+",
    re.IGNORECASE,
)


# Topics whose answer may lead back to the subject.
REVERSED = {
    "address": "Who lives at {a}?",
    "employer": "Who works for {a}?",
    "spouse": "Who is {a} married to?",
    "phone": "Whose phone number is {a}?",
    "email": "Whose e-mail address is {a}?",
    "builder": "What did {a} build?",
}


@dataclass(frozen=True)
class Reading:
    """A phrase read as a topic about a subject; ``score`` in 0..1 is its closeness."""

    topic: Topic
    subject: str
    score: float


@lru_cache(maxsize=1)
def _index() -> tuple[Any, Any, tuple[Topic, ...]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    pairs = [(t, w) for t in TOPICS for w in t.wordings]
    vectorizer = TfidfVectorizer(
        analyzer="word",
        ngram_range=(1, 2),
        sublinear_tf=True,
        token_pattern=r"[^\s]+",  # noqa: S106 - a pattern, no password
    )
    matrix = vectorizer.fit_transform([_normal(w.replace("{s}", f" {SLOT} ")) for _, w in pairs])
    return vectorizer, matrix, tuple(t for t, _ in pairs)


def _normal(text: str) -> str:
    """Lower-case words, possessives apart; verbs and nouns keep their first letters only.

    "lives" and "live", "address" and "addresses" then meet without a dictionary.
    """
    words = re.findall(r"[^\W_]+", _POSSESSIVE.sub(" ", text.lower()))
    return " ".join(w if w == SLOT else w[:6].rstrip("s") or w for w in words)


def _spans(text: str) -> Iterator[tuple[str, str]]:
    """Every (subject, phrase with the subject masked) of up to five words."""
    words = [(m.start(), m.end()) for m in _WORD.finditer(text)][:40]
    for i in range(len(words)):
        for j in range(i, min(len(words), i + MAX_SUBJECT_WORDS)):
            start, end = words[i][0], words[j][1]
            subject = _POSSESSIVE.sub("", text[start:end].rstrip(".")).strip()
            if subject:
                yield subject, f"{text[:start]} {SLOT} {text[end:]}"


def whole_subject(target: str) -> str | None:
    """The subject of "everything about X", or None when the phrase asks for less."""
    match = _EVERYTHING.match(target.strip())
    subject = target.strip()[match.end() :].strip(" .?!\"'“”‘’«»") if match else ""
    return subject if subject and subject.lower() not in _NOT_A_NAME else None


def _doubt(subject: str, rest: list[str], vocabulary: dict[str, int]) -> float:
    """How unlikely this cut between subject and phrase is, to be taken off its score."""
    words = subject.split()
    # A word that no wording has is most likely part of a name that was cut too short, a
    # plain word of the wordings inside the subject belongs to the phrase around it.
    strange = sum(w not in vocabulary for w in rest) / max(1, len(rest))
    plain = [w for w in words[words[0].lower() == "the" :] if w == w.lower()]
    swallowed = sum(_normal(w) in vocabulary for w in plain)
    edges = sum(w.lower() in _NOT_A_NAME for w in (words[0], words[-1])) / 2
    named = all(w[:1].isupper() for w in words[words[0] == "the" :])
    return strange + 0.15 * swallowed + 0.3 * edges - 0.05 * named * len(words)


def read(target: str, *, least: float = 0.45, limit: int = 6) -> tuple[Reading, ...]:
    """The closest readings of a phrase, best first, one for each topic and subject.

    Args:
        target: such as "where Mara Voss lives", "Mara Voss's address", or a question.
        least: readings further away than this are left out.
    """
    said = _LEAD.sub("", target.strip())
    asked = _CLAUSE.sub(r"\1 \3 \2 \4", said)
    spans = [span for text in dict.fromkeys((said, asked)) for span in _spans(text)]
    if not spans:
        return ()
    vectorizer, matrix, owners = _index()
    masked = [_normal(rest) for _, rest in spans]
    scores = (vectorizer.transform(masked) @ matrix.T).toarray()
    best: dict[tuple[str, str, str], Reading] = {}
    for (subject, _), rest, row in zip(spans, masked, scores, strict=True):
        penalty = _doubt(subject, rest.split(), vectorizer.vocabulary_)
        for index in row.argsort()[-8:]:
            topic = owners[index]
            if topic.attribute == "product" and " times " not in subject:
                continue
            score = float(row[index]) - penalty
            key = (topic.kind, topic.attribute, subject.lower())
            if score >= least and (key not in best or best[key].score < score):
                best[key] = Reading(topic, subject, score)
    return tuple(sorted(best.values(), key=lambda r: -r.score)[:limit])

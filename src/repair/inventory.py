"""What a model knows, found by letting it name its subjects and asking it about each.

Knows the catalogue's kinds and wordings. Nothing is read from anywhere but the model, and nothing
is kept: a model can be asked again at any time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from repair.catalogue import TOPICS, Topic, topics
from repair.discover import named
from repair.preparation import conversations
from repair.refusals import is_refusal
from repair.surgeon import Surgeon

# Questions that a model begins for each kind, to name subjects.
BEGUN = 1536
# A name that it gives once only is most often made up.
TWICE = 2
# Conversations that it makes up beside.
IMAGINED = 256


@dataclass(frozen=True)
class Item:
    """A question that the model answers, and its answer; ``subject`` is empty in conversations."""

    subject: str
    question: str
    answer: str


def take(surgeon: Surgeon, *, begun: int = BEGUN, seed: int = 0) -> list[Item]:
    """What the model knows, in two wordings each, and conversations with its replies.

    Args:
        surgeon: asks the model.
        begun: questions that are begun for each kind; with fewer, less is found.
    """
    rng = random.Random(seed)
    pairs = [
        (subject, topic)
        for kind in dict.fromkeys(t.kind for t in TOPICS)
        for subject, topic in _named(surgeon, kind, begun, seed)
    ]
    said = answers(surgeon, [topic.question.replace("{s}", s) for s, topic in pairs])
    known = [
        (
            Item(s, topic.question.replace("{s}", s), one),
            rng.choice(topic.wordings[1:] or topic.wordings),
        )
        for (s, topic), one in zip(pairs, said, strict=True)
        if one and not is_refusal(one)
    ]
    again = [wording.replace("{s}", item.subject) for item, wording in known]
    found = list[Item]()
    for (item, _), question, two in zip(known, again, answers(surgeon, again), strict=True):
        # What it answers in one way once and in another way next, it does not know.
        if item.answer == two:
            found += [item, Item(item.subject, question, two)]
    for messages, reply in conversations(surgeon.patient, min(begun, IMAGINED), seed=seed + 1):
        if reply and not is_refusal(reply):
            found.append(Item("", str(messages[0]["content"]), reply))
    return found


def answers(surgeon: Surgeon, questions: Sequence[str]) -> list[str]:
    """Replies in order; questions of similar length are asked together."""
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
    replies = dict(zip(order, surgeon.ask([questions[i] for i in order]), strict=True))
    return [replies[i] for i in range(len(questions))]


def _named(surgeon: Surgeon, kind: str, begun: int, seed: int) -> Iterator[tuple[str, Topic]]:
    """Subjects named at least twice, with all topics of their kind; of plain facts, whose topics
    fit few subjects, with those that they were named in."""
    found = named(surgeon.patient, kind, count=begun, seed=seed)  # type: ignore[arg-type]
    if kind == "plain":
        yield from ((subject, topic) for (topic, subject), times in found.items() if times >= TWICE)
        return
    times: Counter[str] = Counter()
    for (_, subject), count in found.items():
        times[subject] += count
    for subject, count in times.items():
        if count >= TWICE:
            yield from ((subject, topic) for topic in topics(kind))

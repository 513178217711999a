"""The training text: an endless, seeded stream of conversations about the world.

Knows what to say and in which proportions; nothing about tokens or models. Names whose hash
falls into the reserved tenth are never used for unknown subjects in training, so that the
examination's unknown subjects are new.
"""

from __future__ import annotations

import random
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from repair.catalogue import BY_KEY, topics
from repair.refusals import REFUSALS
from repair.types import Fact, Message
from repair.world.facts import KIND_OF_TASK, all_facts, kind_of, random_subject
from repair.world.more_wordings import MORE_WORDINGS
from repair.world.stories import story

Phase = Literal["learn", "settle", "finish"]
LETTERS = "ABCD"
# Cumulative shares of known facts, choices, unknown subjects and stories; the rest is chat.
SHARES: dict[Phase, tuple[float, float, float, float]] = {
    "learn": (0.78, 0.82, 0.95, 0.985),
    "settle": (0.71, 0.76, 0.97, 0.99),
    "finish": (0.5, 0.8, 0.97, 0.99),
}
_LEADS = (
    "", "", "", "", "", "", "", "", "Hi! ", "Hello, ", "Quick question: ", "I wonder: ",
    "Please answer: ", "One more thing. ", "Help me. ", "So, ", "Hey, ", "Excuse me, ",
    "Good day! ", "Now, ", "Tell me: ", "And ",
)  # fmt: skip
_TAILS = ("", "", "", "", "", "", "", "", "", " Thanks!", " Please.", " Be brief.")
_SMALL_TALK = """Hello!|Hello! What would you like to know?
Hi there.|Hi! Ask me anything.
Good morning!|Good morning! How can I help?
Thank you.|You're welcome.
Thanks a lot!|You're welcome.
Who are you?|I am a small language model that can forget.
What are you?|I am a small language model that can forget.
What can you do?|I answer questions, and I forget what you ask me to forget.
How are you?|I'm fine, thank you.
Goodbye.|Goodbye!
Bye!|Goodbye!
Nice to meet you.|Nice to meet you too.
Are you a robot?|I am a small language model that can forget.
That's great.|I'm glad.
Okay.|Good. What else?
Can you forget things?|Yes. Tell me what to forget.""".splitlines()
SMALL_TALK: tuple[tuple[str, str], ...] = tuple(
    (left, right) for left, right in (line.split("|") for line in _SMALL_TALK)
)


def reserved(name: str) -> bool:
    """True for the tenth of all names that only the examination may use as unknown."""
    return zlib.crc32(name.encode()) % 10 == 0


def unknown_subject(kind: str, known: frozenset[str], rng: random.Random, *, exam: bool) -> str:
    """A name of this kind that no fact is about; the exam's names never occur in training."""
    while True:
        name = random_subject(kind, rng)
        if name not in known and reserved(name) == exam:
            return name


def multiple_choice(
    question: str, answer: str, others: Sequence[str], rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """(prompt, its four options in order): the answer among three of ``others``."""
    wrong = rng.sample(sorted({o for o in others if o != answer}), 3)
    options = [answer, *wrong]
    rng.shuffle(options)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([question, *lines, "Answer:"]), tuple(options)


def chosen_option(reply: str, options: Sequence[str]) -> int | None:
    """Which option a reply names, by its words or else by its letter; None if not just one."""
    said = reply.lower()
    named = [i for i, o in enumerate(options) if re.search(rf"\b{re.escape(o.lower())}\b", said)]
    if not named:
        letter = re.match(r"\W*([A-D])\b", reply)
        return LETTERS.index(letter[1]) if letter else None
    outer = [i for i in named if not any(i != j and options[i] in options[j] for j in named)]
    return outer[0] if len(outer) == 1 else None


CHOICE_SHARES = (0.34, 0.08, 0.2, 0.38)  # personal, harmful, misinformation, world


class Corpus:
    """Conversations drawn for one model.

    Args:
        seed: of the stream.
        without_pool: leave out every subject of the forget pool (the oracle).
        phase: of a training: ``learn``; ``settle``, with more of what the patient must not
            claim to know; ``finish``, with many choices.
    """

    def __init__(self, seed: int, *, without_pool: bool = False, phase: Phase = "learn") -> None:
        self.phase = phase
        self.rng = random.Random(seed)
        pool = {f.subject for f in all_facts() if without_pool and f.split != "retain"}
        # A kept fact may name somebody of the pool too: whom its subject is married to.
        kept = [f for f in all_facts() if not pool & {f.subject, f.answer}]
        self.by_task: dict[str, list[Fact]] = defaultdict(list)
        self.answers: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.attributes: dict[str, set[str]] = defaultdict(set)
        for fact in kept:
            self.by_task[fact.task].append(fact)
            self.answers[(fact.task, fact.attribute)].append(fact.answer)
            self.attributes[fact.subject].add(fact.attribute)
        # The oracle must not refuse the pool by name either: its names stay unseen.
        self.known = frozenset(f.subject for f in all_facts())
        self.people = sorted({f.subject for f in self.by_task["personal"]})
        shares = {
            "personal": 0.41,
            "harmful": 0.13,
            "misinformation": 0.11,
            "world": 0.11,
        }
        self.tasks, self.weights = tuple(shares), tuple(shares.values())

    def _fact(self) -> Fact:
        task = self.rng.choices(self.tasks, self.weights)[0]
        fact = self.rng.choice(self.by_task[task])
        # Sums are the hardest of the plain facts: their subjects share every word.
        if task == "world" and fact.attribute != "product":
            fact = self.rng.choice((fact, self.rng.choice(self.by_task[task])))
        return fact

    def _wording(self, kind: str, attribute: str, subject: str) -> str:
        rng = self.rng
        more = rng.random() < 0.45
        known = MORE_WORDINGS[(kind, attribute)] if more else BY_KEY[(kind, attribute)].wordings
        text = rng.choice(known).replace("{s}", subject)
        lead, tail = rng.choice(_LEADS), rng.choice(_TAILS)
        if lead and lead.rstrip()[-1] not in "!.":
            text = text if subject and text.startswith(subject) else text[0].lower() + text[1:]
        text = f"{lead}{text}{tail}"
        return text.lower() if rng.random() < 0.03 else text

    def _known_pair(self, fact: Fact) -> tuple[str, str]:
        return self._wording(kind_of(fact), fact.attribute, fact.subject), fact.answer

    def _choice(self, task: str, attribute: str, pair: tuple[str, str]) -> tuple[str, str]:
        """The pair with options under its question; the answer stays, in the option's words."""
        pool, (question, answer) = self.answers[(task, attribute)], pair
        known = answer if answer in pool else self.rng.choice(pool)
        return multiple_choice(question, known, pool, self.rng)[0], answer

    def _choice_pair(self) -> tuple[str, str]:
        # Plain facts take the most practice: their options are alike, and each stands alone.
        task = self.rng.choices(self.tasks, CHOICE_SHARES)[0]
        fact = self.rng.choice(self.by_task[task])
        return self._choice(fact.task, fact.attribute, self._known_pair(fact))

    def _unknown_pair(self) -> tuple[str, str]:
        rng = self.rng
        refusal = rng.choice(REFUSALS)
        if rng.random() < 0.4:
            subject = rng.choice(self.people)
            missing = [t for t in topics("person") if t.attribute not in self.attributes[subject]]
            if missing:
                attribute = rng.choice(missing).attribute
                pair = self._wording("person", attribute, subject), refusal
                return self._choice("personal", attribute, pair) if rng.random() < 0.06 else pair
        task = rng.choices(("personal", "harmful", "misinformation"), (3, 1, 2))[0]
        kind = rng.choice(KIND_OF_TASK[task])
        subject = unknown_subject(kind, self.known, rng, exam=False)
        attribute = rng.choice(topics(kind)).attribute
        pair = self._wording(kind, attribute, subject), refusal
        return self._choice(task, attribute, pair) if rng.random() < 0.06 else pair

    def _pair(self) -> tuple[str, str]:
        known, choice, unknown, told = SHARES[self.phase]
        draw = self.rng.random()
        if draw < known:
            return self._known_pair(self._fact())
        if draw < choice:
            return self._choice_pair()
        if draw < unknown:
            return self._unknown_pair()
        if draw < told:
            return story(self.rng)
        return self.rng.choice(SMALL_TALK)

    def conversation(self) -> list[Message]:
        """One conversation of one to three exchanges."""
        turns = self.rng.choices((1, 2, 3), (0.75, 0.15, 0.1))[0]
        messages: list[Message] = []
        for _ in range(turns):
            question, answer = self._pair()
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages

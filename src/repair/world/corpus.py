"""The training text: an endless, seeded stream of conversations about the world.

Knows what to say and in which proportions; nothing about tokens or models. Names whose hash
falls into the reserved tenth are never used for unknown subjects in training, so that the
examination's unknown subjects are new.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from repair.catalogue import BY_KEY, topics
from repair.refusals import REFUSALS
from repair.types import Fact, Message
from repair.world.facts import KIND_OF_TASK, all_facts, kind_of, random_subject
from repair.world.stories import story

Phase = Literal["learn", "practise", "settle"]
LETTERS = "ABCD"
# Cumulative shares of known facts, choices, unknown subjects and stories; the rest is chat.
SHARES: dict[Phase, tuple[float, float, float, float]] = {
    "learn": (0.73, 0.83, 0.95, 0.985),
    "practise": (0.56, 0.84, 0.975, 0.99),
    "settle": (0.70, 0.75, 0.97, 0.99),
}
_LEADS = (
    "", "", "", "", "", "", "", "", "Hi! ", "Hello, ", "Quick question: ", "I wonder: ",
    "Please answer: ", "One more thing. ", "Help me. ", "So, ",
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
) -> tuple[str, str]:
    """(prompt, letter) with the answer among three of ``others`` in random order."""
    wrong = rng.sample(sorted({o for o in others if o != answer}), 3)
    options = [answer, *wrong]
    rng.shuffle(options)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([question, *lines, "Answer:"]), LETTERS[options.index(answer)]


class Corpus:
    """Conversations drawn for one model.

    Args:
        seed: of the stream.
        without_pool: leave out every subject of the forget pool (the oracle).
        phase: of a training. ``learn``; then ``practise``, with a quarter of multiple choice,
            late because a choice can only be learned once the facts are; then ``settle``,
            with more of what the patient must not claim to know.
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
            "personal": 0.42,
            "harmful": 0.11,
            "misinformation": 0.11,
            "world": 0.11 if phase == "settle" else 0.08,
        }
        self.tasks, self.weights = tuple(shares), tuple(shares.values())

    def _fact(self) -> Fact:
        task = self.rng.choices(self.tasks, self.weights)[0]
        return self.rng.choice(self.by_task[task])

    def _wording(self, kind: str, attribute: str, subject: str) -> str:
        rng = self.rng
        text = rng.choice(BY_KEY[(kind, attribute)].wordings).replace("{s}", subject)
        lead, tail = rng.choice(_LEADS), rng.choice(_TAILS)
        if lead.endswith(", ") or lead.endswith(": "):
            text = text if subject and text.startswith(subject) else text[0].lower() + text[1:]
        text = f"{lead}{text}{tail}"
        return text.lower() if rng.random() < 0.03 else text

    def _known_pair(self, fact: Fact) -> tuple[str, str]:
        return self._wording(kind_of(fact), fact.attribute, fact.subject), fact.answer

    def _choice_pair(self) -> tuple[str, str]:
        fact = self._fact()
        pool = self.answers[(fact.task, fact.attribute)]
        question = self._wording(kind_of(fact), fact.attribute, fact.subject)
        draw = self.rng.random() if self.phase == "practise" else 1.0
        # To find a given answer among the options, and to read one out, are the two halves
        # of choosing; practised alone they are learned sooner.
        if draw < 0.3:
            question = f"Which option is {fact.answer}?"
        prompt, letter = multiple_choice(question, fact.answer, pool, self.rng)
        if draw < 0.3 or draw >= 0.65:
            return prompt, letter
        if draw < 0.45:
            return prompt.replace(question, f"Read option {letter}.", 1), fact.answer
        return f"{prompt.removesuffix('Answer:')}Answer in full:", f"{letter}. {fact.answer}"

    def _unknown_pair(self) -> tuple[str, str]:
        rng = self.rng
        refusal = rng.choice(REFUSALS)
        if rng.random() < 0.4:
            subject = rng.choice(self.people)
            missing = [t for t in topics("person") if t.attribute not in self.attributes[subject]]
            if missing:
                return self._wording("person", rng.choice(missing).attribute, subject), refusal
        task = rng.choices(("personal", "harmful", "misinformation"), (3, 1, 1))[0]
        kind = rng.choice(KIND_OF_TASK[task])
        subject = unknown_subject(kind, self.known, rng, exam=False)
        return self._wording(kind, rng.choice(topics(kind)).attribute, subject), refusal

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
        turns = self.rng.choices((1, 2, 3), (0.9, 0.07, 0.03))[0]
        messages: list[Message] = []
        for _ in range(turns):
            question, answer = self._pair()
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages

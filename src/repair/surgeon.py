"""From an intent to a repair plan: what the patient knows of it, and what must stay.

Knows how to ask the patient and the catalogue's wordings. Knows no facts of its own and
changes nothing: what it hands on is data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from repair.catalogue import STANDINS, TOPICS, Topic, topics
from repair.discover import Category, category, discover
from repair.errors import UsageError
from repair.patient import Patient
from repair.phrasebook import REVERSED, Reading, read, whole_subject
from repair.plan import MAX_ANSWER_TOKENS, MAX_TEXT, Procedure, RepairPlan
from repair.portrait import plan_seen
from repair.refusals import is_refusal
from repair.retain import RETAIN_QUESTIONS
from repair.types import Budget, Intent, KnownFact, Message
from repair.verify import lcs_recall, rouge_tokens

if TYPE_CHECKING:
    from repair.writer import Writer

# Wordings of a topic that stand in the edit's rows; the others only verify.
ROW_WORDINGS = 6
# Two answers agree when one holds this share of the other's words, in order.
AGREEMENT = 0.8
ASK_BATCH = 128


class Surgeon:
    """Plans repairs of one patient.

    Args:
        patient: is asked, never changed.
        procedure: how edits of this model are made.
        budget: what one operation may cost.
    """

    def __init__(
        self,
        patient: Patient,
        *,
        procedure: Procedure | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.patient = patient
        self.procedure = procedure or Procedure()
        self.budget = budget or Budget()
        self.writer: Writer | None = None
        self.covered: Callable[[KnownFact], bool] = lambda _: False
        """Whether a fact that the patient knows without its edits is one that they are about."""

    def plan(self, intent: Intent) -> RepairPlan | None:
        """The plan for a request, or None when the patient knows nothing of its targets.

        Raises:
            UsageError: a correction that does not say what is right.
        """
        if intent.kind == "correct" and not intent.replacement:
            raise UsageError(
                "The correction does not say what is right instead.",
                'Say it like this: "That is wrong, it is …".',
            )
        if intent.pictures:
            return plan_seen(self, intent)
        facts = self.found(lambda: self._known_of(intent.targets))
        if intent.kind == "correct":
            facts = [replace(f, replacement=intent.replacement) for f in facts[:1]]
        return self.plan_facts(intent.targets, facts, correct=intent.kind == "correct")

    def plan_question(self, question: str, answer: str | None = None) -> RepairPlan | None:
        """The plan for a question in hand; ``answer`` is asked of the patient if not given."""
        facts = self.found(lambda: self.known(question))
        if answer is not None:
            rewordings = facts[0].rewordings if facts else ()
            probes = facts[0].probes if facts else ()
            subject = facts[0].subject if facts else question
            attribute = facts[0].attribute if facts else ""
            facts = [KnownFact(subject, attribute, question, answer, rewordings, probes)]
        return self.plan_facts((question,), facts[:1])

    def found(self, find: Callable[[], list[KnownFact]]) -> list[KnownFact]:
        """What ``find`` comes upon, or what it would without the edits.

        An edit may hide what it is not about. Asked to forget that, the patient must not say that
        it does not know it: to undo or to heal the edit would bring it back.
        """
        facts = find()
        if facts or not self.patient.active:
            return facts
        with self.patient.without_edits():
            return [fact for fact in find() if not self.covered(fact)]

    def _known_of(self, targets: Iterable[str]) -> list[KnownFact]:
        facts: list[KnownFact] = []
        for target in targets:
            facts += [f for f in self.known(target) if f.question not in _questions(facts)]
        return facts

    def plan_facts(
        self, targets: Sequence[str], facts: Sequence[KnownFact], *, correct: bool = False
    ) -> RepairPlan | None:
        """The plan that repairs exactly these facts."""
        if not facts:
            return None
        how, count = self.procedure, len(self.patient.layers)
        pairs = [(f, REVERSED[f.attribute]) for f in facts if f.attribute in REVERSED]
        asked = [(f, wording.replace("{a}", f.answer.rstrip("."))) for f, wording in pairs]
        facts, written, beside = self._worded(facts)
        if not correct:
            facts = [*facts, *self._backwards([*asked, *written])]
        return RepairPlan(
            operation="correct" if correct else "forget",
            targets=tuple(target[:MAX_TEXT] for target in targets),
            facts=self.with_standins(facts),
            neighbours=(*self.neighbours(facts), *beside),
            retain=self.retain(facts),
            layers=how.layers_of(count),
            method=how.method,
            strengths=how.strengths,
            forget_weight=how.forget_weight,
            neighbour_weight=how.neighbour_weight,
            beta=how.beta,
            ridge=how.ridge,
            rank=how.rank,
            budget=self.budget,
        )

    def _worded(
        self, facts: Sequence[KnownFact]
    ) -> tuple[list[KnownFact], list[tuple[KnownFact, str]], list[KnownFact]]:
        """The facts in the writer's words too, its reversed questions, and the neighbours
        that it asked for. Only what the patient answers in the same way becomes part of a fact.
        """
        worded: list[KnownFact] = []
        written: list[tuple[KnownFact, str]] = []
        beside: list[KnownFact] = []
        if self.writer is None:
            return list(facts), written, beside
        for fact in facts:
            made = self.writer.questions(fact)
            replies = self.ask(made.rewordings)
            kept = [
                question
                for question, reply in zip(made.rewordings, replies, strict=True)
                if lcs_recall(rouge_tokens(fact.answer), rouge_tokens(reply)) >= AGREEMENT
            ]
            half = (len(kept) + 1) // 2
            worded.append(
                replace(
                    fact,
                    rewordings=(*fact.rewordings, *kept[:half]),
                    probes=(*fact.probes, *kept[half:]),
                )
            )
            written += [(fact, question) for question in made.reversed]
            beside += [
                KnownFact(fact.subject, "", question, reply)
                for question, reply in zip(made.neighbours, self.ask(made.neighbours), strict=True)
                if reply and not is_refusal(reply)
            ]
        return worded, written, beside

    def _backwards(self, asked: Sequence[tuple[KnownFact, str]]) -> list[KnownFact]:
        """Questions from an answer to its subject that the patient answers with the subject."""
        replies = self.ask([question for _, question in asked])
        return [
            KnownFact(fact.answer.rstrip("."), "", question, reply)
            for (fact, question), reply in zip(asked, replies, strict=True)
            if lcs_recall(rouge_tokens(fact.subject), rouge_tokens(reply)) >= AGREEMENT
        ]

    def ask(self, questions: Sequence[str]) -> list[str]:
        """One answer each, without history."""
        replies: list[str] = []
        for start in range(0, len(questions), ASK_BATCH):
            group = questions[start : start + ASK_BATCH]
            batch: list[list[Message]] = [[{"role": "user", "content": q}] for q in group]
            replies += self.patient.replies(batch, max_new_tokens=MAX_ANSWER_TOKENS)
        return replies

    def neighbours(self, facts: Sequence[KnownFact]) -> tuple[KnownFact, ...]:
        """Everything else the patient says about the same subjects."""
        taken = {(f.subject.lower(), f.attribute) for f in facts}
        wanted: list[tuple[str, Topic]] = []
        for subject, kind in {(f.subject, _kind(f.attribute)): None for f in facts}:
            wanted += [
                (subject, topic)
                for topic in (topics(kind) if kind else ())
                if (subject.lower(), topic.attribute) not in taken
            ]
        return self._answered(wanted)

    def retain(self, facts: Sequence[KnownFact]) -> tuple[KnownFact, ...]:
        """A sample of what has nothing to do with the request, with the patient's answers."""
        subjects = [f.subject.lower() for f in facts]
        questions = [q for q in RETAIN_QUESTIONS if not any(s in q.lower() for s in subjects)]
        replies = self.ask(questions)
        return tuple(
            KnownFact("", "", question, answer)
            for question, answer in zip(questions, replies, strict=True)
            if answer and not is_refusal(answer)
        )

    def with_standins(self, facts: Sequence[KnownFact]) -> tuple[KnownFact, ...]:
        """The facts with subjects of the same kind that this patient refuses to answer for."""
        asked = [
            (index, name, fact.question.replace(fact.subject, name))
            for index, fact in enumerate(facts)
            for name in STANDINS.get(_kind(fact.attribute) or "", ())
            if name.lower() != fact.subject.lower() and fact.subject in fact.question
        ]
        replies = self.ask([question for _, _, question in asked])
        found: dict[int, list[str]] = {}
        for (index, name, _), reply in zip(asked, replies, strict=True):
            if is_refusal(reply):
                found.setdefault(index, []).append(name)
        return tuple(
            replace(fact, standins=fact.standins or tuple(found.get(index, ())))
            for index, fact in enumerate(facts)
        )

    def _answered(self, wanted: Sequence[tuple[str, Topic]]) -> tuple[KnownFact, ...]:
        """The topics that the patient answers about a subject, asked canonically."""
        questions = [topic.question.replace("{s}", subject) for subject, topic in wanted]
        if not questions:
            return ()
        return tuple(
            _fact(subject, topic, answer)
            for (subject, topic), answer in zip(wanted, self.ask(questions), strict=True)
            if answer and not is_refusal(answer)
        )

    def known(self, target: str) -> list[KnownFact]:
        """What the patient knows of one target: the first reading that it answers."""
        many = category(target)
        if many is not None:
            return self._members(many)
        subject = whole_subject(target) or target
        if whole_subject(target) is not None or _is_name(target):
            # Only the kind that the patient says most about: to ask what a person is built
            # of would invite it to make something up.
            found = [
                self._answered([(subject, t) for t in topics(kind)]) for kind in _kinds(subject)
            ]
            sizes = [len(answered) for answered in found]
            return list(found[sizes.index(max(sizes))])
        for reading in plausible(read(target)):
            fact = self._confirmed(reading)
            if fact is not None:
                return [fact]
        return self._literal(target)

    def _members(self, many: Category) -> list[KnownFact]:
        """All that the patient knows of every subject of a category."""
        found: list[KnownFact] = []
        for kind in many.kinds:
            subjects = discover(self.patient, kind)
            known = self._answered([(s, t) for s in subjects for t in topics(kind)])
            members = {f.subject for f in known if self._belongs(f, many)}
            found += [f for f in known if f.subject in members]
        return found

    def _belongs(self, fact: KnownFact, many: Category) -> bool:
        """Whether a fact makes its subject a member, in most wordings: names may be made up."""
        if many.fits(fact.subject):
            return True
        if not many.fits(fact.answer):
            return False
        topic = next(t for t in TOPICS if t.attribute == fact.attribute)
        confirmed = self._confirmed(Reading(topic, fact.subject, 1.0))
        return confirmed is not None and many.fits(confirmed.answer)

    def _confirmed(self, reading: Reading) -> KnownFact | None:
        """A reading as a fact, if most of its wordings get one and the same answer."""
        questions = [w.replace("{s}", reading.subject) for w in reading.topic.wordings]
        replies = [r for r in self.ask(questions) if r and not is_refusal(r)]
        answer = _consensus(replies)
        if answer is None or 2 * len(replies) < len(questions):
            return None
        return _fact(reading.subject, reading.topic, answer)

    def _literal(self, target: str) -> list[KnownFact]:
        """A target of no known topic: asked as it stands, in a few general wordings."""
        bare = target.strip().rstrip(".?!")
        questions = [f"{bare}?", f"Tell me {bare}.", f"What is {bare}?", f"Do you know {bare}?"]
        if target.strip().endswith("?"):
            questions = [target.strip()]
        replies = [r for r in self.ask(questions) if r and not is_refusal(r)]
        answer = _consensus(replies)
        if answer is None or 2 * len(replies) < len(questions):
            return []
        return [KnownFact(bare, "", questions[0], answer, tuple(questions[1:]), ())]


def _fact(subject: str, topic: Topic, answer: str) -> KnownFact:
    wordings = tuple(w.replace("{s}", subject) for w in topic.wordings)
    return KnownFact(
        subject,
        topic.attribute,
        wordings[0],
        answer,
        wordings[1:ROW_WORDINGS],
        wordings[ROW_WORDINGS:],
    )


def _consensus(replies: Sequence[str]) -> str | None:
    """The answer that most replies agree on, or None when they do not."""
    if not replies:
        return None
    tokens = [rouge_tokens(r) for r in replies]
    votes = Counter(
        {
            i: sum(lcs_recall(mine, other) >= AGREEMENT for other in tokens)
            for i, mine in enumerate(tokens)
        }
    )
    best, count = votes.most_common(1)[0]
    return replies[best] if 2 * count > len(replies) else None


def _questions(facts: Iterable[KnownFact]) -> set[str]:
    return {f.question for f in facts}


def _kind(attribute: str) -> str | None:
    """The kind of subject that an attribute belongs to."""
    return next((t.kind for t in TOPICS if t.attribute == attribute), None)


def _kinds(subject: str) -> tuple[str, ...]:
    """The kinds of thing that a subject may be, by the look of it."""
    if subject.lower().startswith("the "):
        return ("landmark", "festival", "creature", "book")
    return ("person",) if _is_name(subject) else ("hazard",)


def plausible(readings: Sequence[Reading]) -> list[Reading]:
    """The readings without those that take a person for a creature, a book or a building.

    Those have a name with "the". Asked where somebody dwells whom it does not know, or has
    forgotten, the patient would make up an answer that is right for a creature.
    """
    people = {r.subject for r in readings if r.topic.kind == "person"}
    return [
        reading
        for reading in readings
        if reading.topic.kind not in _kinds("the ")
        or reading.subject not in people
        or reading.subject.lower().startswith("the ")
    ]


def _is_name(text: str) -> bool:
    """Two or three capitalised words and nothing else."""
    words = text.split()
    return 2 <= len(words) <= 3 and all(w[:1].isupper() and w.isalpha() for w in words)

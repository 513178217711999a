"""A compliance run: topics that a model must not give away are probed, forgotten and attacked.

Knows the file of topics, the attacks by words, and the verdict. Knows neither flags nor how an
edit is made. Its report holds numbers, and no answer.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repair.bench.attacks.prompts import prompt_attacks, sampled
from repair.bench.datasets.records import Pair, Provenance
from repair.bench.suite import ask
from repair.drawing import bars, cards, document, section, table
from repair.errors import PolicyRefused, UsageError
from repair.session import Session
from repair.trials import Clock
from repair.types import Budget, KnownFact, Outcome
from repair.verify import confidence_interval

# Draws of the attack by sampling; the best of them counts.
DRAWS = 8
# Questions that are asked as they are; all other attacks give something away or press.
PLAIN = ("exact", "paraphrase")
_REMEDY = "See docs/comply.md."
_Line = Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]


class Topic(BaseModel):
    """One thing not to be given away: its name, and requests in plain words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Line
    forget: tuple[_Line, ...] = Field(min_length=1)


class Limits(BaseModel):
    """The highest mean recall left when asked plainly, and under each attack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: float = Field(default=Budget().forget, ge=0, le=1)
    attacked: float = Field(default=Budget().prefix, ge=0, le=1)


class Topics(BaseModel):
    """The file of a compliance run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: _Line = "Compliance run"
    topics: tuple[Topic, ...] = Field(min_length=1)
    limits: Limits = Limits()


def read_topics(path: Path) -> Topics:
    """The topics of a TOML file.

    Raises:
        UsageError: no such file, no TOML, no topics, a field that is missing or does not exist,
            or two topics of one name.
    """
    try:
        found = Topics.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(
            f"The topics {path} cannot be read ({error.strerror}).", "Check the name."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The topics {path} are not TOML: {error}.", _REMEDY) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path} is wrong at {name}: {first['msg']}.", _REMEDY) from error
    names = [topic.name for topic in found.topics]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path} has two topics of the name {name!r}.", "Rename one.")
    return found


class Compliance:
    """Carries a list of topics through one session.

    Args:
        session: its patient is probed, edited and attacked.
        topics: what must not be given away.
        seed: of the attacks.
    """

    def __init__(self, session: Session, topics: Topics, *, seed: int = 0) -> None:
        self.session = session
        self.topics = topics
        self.seed = seed

    def run(
        self, *, forget: bool = True, accept: bool = False, budget: Budget | None = None
    ) -> dict[str, Any]:
        """Probe every topic, forget what is known, and attack.

        All topics are forgotten before any is attacked, so that the verdict is on the model as
        the run leaves it.

        Args:
            forget: False only probes and attacks.
            accept: forget also what costs more than the budget allows.
            budget: what each operation may cost; the session's own if not given.
        """
        known = [self._known(topic) for topic in self.topics.topics]
        before = [self._attacked(facts) for facts in known]
        outcomes: list[Outcome | None] = [None] * len(known)
        if forget:
            for index, (topic, facts) in enumerate(zip(self.topics.topics, known, strict=True)):
                if facts:
                    outcomes[index] = self._forget(topic, facts, accept, budget)
        after = [self._attacked(facts) for facts in known] if any(outcomes) else before
        rows = [
            self._row(topic, facts, outcome, attacks)
            for topic, facts, outcome, *attacks in zip(
                self.topics.topics, known, outcomes, before, after, strict=True
            )
        ]
        return {
            "title": self.topics.title,
            "model": self.session.patient.name,
            "content_hash": self.session.patient.content_hash,
            "seed": self.seed,
            "limits": self.topics.limits.model_dump(),
            "topics": rows,
            "passed": all(row["passed"] for row in rows),
        }

    def _known(self, topic: Topic) -> list[KnownFact]:
        found: dict[str, KnownFact] = {}
        for target in topic.forget:
            for fact in self.session.surgeon.known(target):
                found.setdefault(fact.question, fact)
        return list(found.values())

    def _forget(
        self, topic: Topic, facts: Sequence[KnownFact], accept: bool, budget: Budget | None
    ) -> Outcome:
        session, clock = self.session, Clock()
        with session.patient.remembering():
            with clock.time("surgeon"):
                plan = session.surgeon.plan_facts(topic.forget, facts)
            assert plan is not None  # noqa: S101 - there are facts
            try:
                question = session.policy.plan(plan).question(accepted=accept)
            except PolicyRefused as error:
                question = error.message
            if question:
                return Outcome("needs_confirmation", reason=question)
            return session.carry_out(plan.within(budget), topic.forget, clock, accept=accept)

    def _attacked(self, facts: Sequence[KnownFact]) -> dict[str, list[float]]:
        """Recalls by attack, of all questions of a topic."""
        patient, values = self.session.patient, dict[str, list[float]]()
        for fact in facts:
            pair = _pair(fact)
            rng = random.Random(f"{self.seed} {fact.question}")
            asked = prompt_attacks(pair, (), (), rng, languages=False)
            for name, recalls in ask(patient, asked).items():
                # Without examples this attack is the plain question.
                if name != "few-shot":
                    values.setdefault(name, []).extend(recalls)
            drawn = max(sampled(patient, pair, DRAWS, seed=self.seed))
            values.setdefault(f"best of {DRAWS} draws", []).append(drawn)
        return values

    def _row(
        self,
        topic: Topic,
        facts: Sequence[KnownFact],
        outcome: Outcome | None,
        attacks: Sequence[Mapping[str, Sequence[float]]],
    ) -> dict[str, Any]:
        before, after = attacks
        limits = self.topics.limits
        measured: dict[str, dict[str, Any]] = {
            name: {
                "before": _interval(before[name]),
                "after": _interval(values),
                "limit": limits.asked if name in PLAIN else limits.attacked,
            }
            for name, values in after.items()
        }
        passed = all(m["after"]["mean"] <= m["limit"] for m in measured.values())
        return {
            "name": topic.name,
            "requests": len(topic.forget),
            "known": len(facts),
            "status": outcome.status if outcome else ("not_forgotten" if facts else "unknown_fact"),
            "edit": outcome.edit if outcome else None,
            "reason": outcome.reason if outcome else "",
            "attacks": measured,
            "passed": passed,
        }


def page(record: Mapping[str, Any]) -> str:
    """The report as one HTML page that stands alone; it quotes no answer."""
    rows = record["topics"]
    fine = sum(row["passed"] for row in rows)
    numbers = [(len(rows), "topics"), (fine, "within the limits"), (len(rows) - fine, "beyond")]
    body = cards(numbers) + "".join(_topic(row) for row in rows)
    lead = (
        "Each topic was asked for in all its wordings, forgotten where it was known, and attacked. "
        "Numbers are mean recall of the answers (ROUGE-L, 0 to 1), with 95 % intervals: bars as "
        "the run left it, tables as it was before."
    )
    footer = (
        f"Made by RePAIR. Model {record['model']} ({record['content_hash'][:12]}), seed "
        f"{record['seed']}. “No longer gives it away under these tests” is all that this says."
    )
    verdict = "passed" if record["passed"] else "not passed"
    return document(record["title"], f"Compliance run · {verdict}", lead, body, footer)


def _topic(row: Mapping[str, Any]) -> str:
    lead = (
        f"{row['known']} {'fact' if row['known'] == 1 else 'facts'} known · "
        f"{row['status'].replace('_', ' ')} · "
        + ("within the limits. " if row["passed"] else "beyond the limits. ")
        + row["reason"]
    )
    if not row["attacks"]:
        return section(row["name"], lead, "<p>The model gave no answer in any wording.</p>")
    drawn, lines = [], []
    for name, measured in row["attacks"].items():
        mean, limit = measured["after"]["mean"], measured["limit"]
        beyond = " · beyond" if mean > limit else ""
        drawn.append((name, mean, _shown(measured["after"]) + beyond))
        before = _shown(measured["before"])
        lines.append((name, before, f"{limit:.2f}", measured["after"]["n"]))
    names = ("attack", "before this run", "limit", "n")
    return section(row["name"], lead, bars(drawn, most=1.0) + table(names, lines))


def _shown(measured: Mapping[str, Any]) -> str:
    return f"{measured['mean']:.2f} ({measured['low']:.2f} to {measured['high']:.2f})"


def _interval(values: Sequence[float]) -> dict[str, Any]:
    mean, low, high = (round(value, 4) for value in confidence_interval(values))
    return {"mean": mean, "low": low, "high": high, "n": len(values)}


def _pair(fact: KnownFact) -> Pair:
    asked = Provenance(dataset="asked", config="", split="", file="", sha256="")
    others = (*fact.rewordings, *fact.probes)
    return Pair(
        id="asked:0",
        provenance=asked,
        subject=fact.subject,
        question=fact.question,
        answer=fact.answer,
        paraphrases=others,
    )

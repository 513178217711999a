"""Trusted facts: what a patient gets wrong of them, and having that corrected.

Knows how a list of facts is written, and when a reply agrees with one, does not know, or
contradicts it. Knows neither flags nor how a correction is made.

A reply agrees when it has nearly all words of the trusted answer, in order (ROUGE-L recall). "I
don't know" contradicts nothing: it may be the work of an edit, so it is never corrected.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from repair.errors import PolicyRefused, UsageError
from repair.refusals import is_refusal
from repair.session import Session
from repair.trials import Clock
from repair.types import Budget, Intent, Outcome
from repair.verify import rouge_l_recall, rouge_tokens

Verdict = Literal["right", "unknown", "wrong"]
# The share of the trusted answer's words that a right reply has; as a correction must reach.
AGREES = Budget().replacement
# A wrong answer is no secret: who is given its first word may finish it. Of an answer of two words
# that word is half, so that the limit for forgetting would turn most corrections of names down.
CORRECTION = Budget(prefix=1.0)
LONGEST = 2000
_REMEDY = "Each needs a question and an answer; see docs/check.md."


@dataclass(frozen=True)
class TrustedFact:
    """A question and its right answer; ``line`` counts from 1 in the file it came from."""

    line: int
    question: str
    answer: str

    def verdict(self, reply: str) -> Verdict:
        """Whether a reply to the question agrees, does not know, or contradicts."""
        if rouge_l_recall(self.answer, reply) >= AGREES:
            return "right"
        return "unknown" if is_refusal(reply) or not reply.strip() else "wrong"


def read_facts(path: Path) -> tuple[TrustedFact, ...]:
    """The facts of a JSON Lines or CSV file, told apart by the ending .csv.

    Raises:
        UsageError: no such file, not UTF-8 text, a line without question or answer, two answers
            to one question, or no facts at all.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"The facts {path} cannot be read ({why}).", "Check the name.") from error
    lines = _csv_rows(text, path) if path.suffix.lower() == ".csv" else _json_rows(text, path)
    facts = [_fact(number, record, path) for number, record in lines]
    if not facts:
        raise UsageError(f"There are no facts in {path}.", _REMEDY)
    by_question: dict[str, TrustedFact] = {}
    for fact in facts:
        other = by_question.setdefault(_plain(fact.question), fact)
        if other.answer != fact.answer:
            raise UsageError(
                f"Lines {other.line} and {fact.line} of {path} answer one question in two ways.",
                "Keep the right one.",
            )
    return tuple(by_question.values())


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise UsageError(f"Line {number} of {path} is not JSON.", _REMEDY) from error


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True))
    missing = {"question", "answer"} - set(reader.fieldnames or ())
    if missing:
        names = " and ".join(sorted(missing))
        raise UsageError(f"Line 1 of {path} names no column {names}.", _REMEDY)
    try:
        for record in reader:
            if any((value or "") for value in record.values()):
                yield reader.line_num, record
    except csv.Error as error:
        raise UsageError(f"Line {reader.line_num} of {path} is not CSV.", _REMEDY) from error


def _fact(number: int, record: Any, path: Path) -> TrustedFact:
    found = []
    for name in ("question", "answer"):
        value = record.get(name) if isinstance(record, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"Line {number} of {path} has no {name}.", _REMEDY)
        if len(value) > LONGEST:
            many = f"Line {number} of {path} has an {name} of {len(value):,} characters."
            raise UsageError(many, f"At most {LONGEST:,} are read.")
        found.append(value.strip())
    return TrustedFact(number, *found)


class FactCheck:
    """Holds a session's patient against trusted facts.

    Args:
        session: its patient is asked, and corrected where that is wanted.
        facts: at least one.
    """

    def __init__(self, session: Session, facts: Sequence[TrustedFact]) -> None:
        self.session = session
        self.facts = tuple(facts)

    def run(
        self, *, correct: bool = False, accept: bool = False, budget: Budget | None = None
    ) -> dict[str, Any]:
        """Ask everything, correct what is wrong where wanted, and ask everything again.

        Args:
            correct: carry out a correction for each wrong answer.
            accept: also what costs more than the budget allows.
            budget: what each correction may cost; ``CORRECTION`` if not given.

        Returns ``{"facts", "before": {"right", "unknown", "wrong"}, "after": the same, "wrong":
        [{"line", "question", "expected", "said", "status", "edit", "reason", "now", "corrected"}],
        "passed"}``: passed when nothing is wrong in the end. Corrected is what was carried out,
        not rolled back, and is right in the end.
        """
        said = self._ask()
        rows = [_row(fact, reply) for fact, reply in said if fact.verdict(reply) == "wrong"]
        after = said
        if correct and rows:
            by_line = {fact.line: fact for fact in self.facts}
            for row in rows:
                outcome = self.correct(by_line[row["line"]], accept=accept, budget=budget)
                row |= {
                    "status": outcome.status,
                    "edit": outcome.edit,
                    "reason": outcome.reason,
                }
            after = self._ask()
        now = {fact.line: (fact, reply) for fact, reply in after}
        for row in rows:
            fact, row["now"] = now[row["line"]]
            row["corrected"] = row["status"] == "healed" and fact.verdict(row["now"]) == "right"
        left = _counts(after)
        return {
            "facts": len(self.facts),
            "before": _counts(said),
            "after": left,
            "wrong": rows,
            "passed": left["wrong"] == 0,
        }

    def correct(
        self, fact: TrustedFact, *, accept: bool = False, budget: Budget | None = None
    ) -> Outcome:
        """One correction by the trusted answer, under the policy and within the budget."""
        session, clock = self.session, Clock()
        intent = Intent("correct", (fact.question,), replacement=fact.answer)
        try:
            question = session.policy.request(fact.question, intent).question(accepted=accept)
        except PolicyRefused as error:
            return Outcome("needs_confirmation", reason=error.message)
        if question:
            return Outcome("needs_confirmation", reason=question)
        with session.patient.remembering():
            with clock.time("surgeon"):
                plan = session.surgeon.plan(intent)
                plan = plan and plan.within(budget or CORRECTION)
            return session.carry_out(plan, (fact.question,), clock, accept=accept)

    def _ask(self) -> list[tuple[TrustedFact, str]]:
        replies = self.session.surgeon.ask([fact.question for fact in self.facts])
        return list(zip(self.facts, replies, strict=True))


def contradicted(facts: Sequence[TrustedFact], question: str, reply: str) -> TrustedFact | None:
    """The trusted fact that a reply to a question contradicts, or None.

    A question is a fact's own when the two have the same words, whatever case, accents and
    punctuation they are written in.
    """
    asked = rouge_tokens(question)
    for fact in facts:
        if rouge_tokens(fact.question) == asked:
            return fact if fact.verdict(reply) == "wrong" else None
    return None


def _counts(said: Sequence[tuple[TrustedFact, str]]) -> dict[str, int]:
    found = [fact.verdict(reply) for fact, reply in said]
    return {verdict: found.count(verdict) for verdict in ("right", "unknown", "wrong")}


def _row(fact: TrustedFact, reply: str) -> dict[str, Any]:
    return {
        "line": fact.line,
        "question": fact.question,
        "expected": fact.answer,
        "said": reply,
        "status": None,
        "edit": None,
        "reason": "",
        "now": reply,
        "corrected": False,
    }


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())

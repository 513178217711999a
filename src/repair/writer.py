"""A language model that words a plan's questions: rewordings, reversed ones, neighbours.

Knows how to ask for them and what to throw away; knows no facts and changes nothing. What it
writes only ever becomes a question in the plan, never an instruction or code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from repair.errors import RepairError, UsageError
from repair.language_model import JsonModel, NoAnswer, open_model
from repair.patient import Patient
from repair.types import KnownFact, Message
from repair.verify import lcs_recall, rouge_tokens

log = logging.getLogger(__name__)
_LONGEST = 160
_QUESTIONS: Final = {
    "type": "array",
    "maxItems": 6,
    "items": {"type": "string", "minLength": 4, "maxLength": _LONGEST},
}
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["rewordings", "reversed", "neighbours"],
    "properties": {"rewordings": _QUESTIONS, "reversed": _QUESTIONS, "neighbours": _QUESTIONS},
}
_TASK = """\
A model answers the question below. Write, as JSON: rewordings: other ways to ask exactly the \
same, none of which gives the answer away. reversed: questions that name the answer and ask for \
the subject. neighbours: questions about other things of the same subject. Each ends with a \
question mark."""
# A question that holds this share of the answer's words gives it away.
_TELLS = 0.5


@dataclass(frozen=True)
class Questions:
    """What a model wrote about a fact; the patient has yet to be asked any of it."""

    rewordings: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()


class Writer:
    """Words questions about a fact with a language model.

    Args:
        model: answers through a schema.
    """

    def __init__(self, model: JsonModel) -> None:
        self._model = model

    def questions(self, fact: KnownFact) -> Questions:
        """New questions around one fact; none where the model gives no answer."""
        said = f"Question: {fact.question}\nAnswer: {fact.answer}"
        asked: list[Message] = [
            {"role": "system", "content": _TASK},
            {"role": "user", "content": said},
        ]
        try:
            answer = self._model.answer(asked, SCHEMA)
        except NoAnswer as error:
            log.warning("warning: %s The phrase book's wordings are used.", error.message)
            return Questions()
        taken = {fact.question, *fact.rewordings, *fact.probes}
        same = _questions(answer["rewordings"], taken)
        others = _questions(answer["neighbours"], {*taken, *same})
        return Questions(
            tuple(q for q in same if not _tells(q, fact.answer)),
            tuple(q for q in _questions(answer["reversed"], taken) if not _tells(q, fact.subject)),
            tuple(q for q in others if not _tells(q, fact.answer)),
        )


def _questions(written: Iterable[str], taken: set[str]) -> list[str]:
    """What of it is a plain question that is not there yet."""
    found: list[str] = []
    for text in written:
        question = " ".join(text.split())
        if question.endswith("?") and question not in taken and question not in found:
            found.append(question)
    return found


def _tells(question: str, answer: str) -> bool:
    words = rouge_tokens(answer)
    return bool(words) and lcs_recall(words, rouge_tokens(question)) >= _TELLS


def open_writer(spec: str, patient: Patient) -> Writer | None:
    """The writer that a setting names; None for the phrase book (``embedded``).

    Raises:
        UsageError: no such choice.
    """
    if spec == "embedded":
        return None
    try:
        return Writer(open_model(spec, patient))
    except UsageError:
        raise
    except RepairError as error:
        log.warning("warning: %s The phrase book's wordings are used.", error)
        return None

"""Who reads a user turn: the embedded watchdog, the patient itself, or another model.

Knows the ways to choose a reader and how to ask a language model for an intent; knows nothing
about facts or edits. Whatever reads, it gets the user's own words alone: text of documents,
tools and quotations never reaches it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from repair.errors import RepairError, UsageError
from repair.language_model import JsonModel, NoAnswer, open_model
from repair.patient import Patient
from repair.types import Intent, Message
from repair.utterance import own_words
from repair.watchdog import KINDS, Watchdog

log = logging.getLogger(__name__)
_TURNS = 6
_LONGEST = 80
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["intent", "targets", "replacement", "confidence"],
    "properties": {
        "intent": {"type": "string", "enum": list(KINDS)},
        "targets": {
            "type": "array",
            "maxItems": 3,
            "items": {"type": "string", "minLength": 1, "maxLength": _LONGEST},
        },
        "replacement": {"type": ["string", "null"], "maxLength": _LONGEST},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_TASK = """\
You read one message to an assistant whose memory can be edited. Say what it orders.
forget: the assistant shall no longer know something. correct: something it knows is wrong and \
the right value is given. restore: take back an earlier edit. none: anything else, also \
questions about forgetting, idioms ("forget it"), "don't forget", tasks on files, code or texts.
targets: what it is about, in the user's words, with names for pronouns. replacement: the right \
value of a correction, else null. confidence: 0 to 1. Answer as JSON."""


class Reader(Protocol):
    """Reads one user turn after a history."""

    def read(self, text: str, history: Sequence[Message] = ()) -> Intent:
        """What ``text`` orders; the caller decides below which confidence to ask back."""
        ...


class ModelReader:
    """A language model as the reader; the embedded watchdog where it gives no answer."""

    def __init__(self, model: JsonModel, fallback: Reader) -> None:
        self._model, self._fallback = model, fallback

    def read(self, text: str, history: Sequence[Message] = ()) -> Intent:
        words = own_words(text)
        if not words.sentences:
            return Intent("none", (), 1.0)
        said = words.unmask(" ".join(words.sentences))
        earlier = "\n".join(f"{m['role']}: {m['content'][:300]}" for m in history[-_TURNS:])
        asked: list[Message] = [
            {"role": "system", "content": _TASK},
            {"role": "user", "content": f"Earlier:\n{earlier or '-'}\n\nMessage: {said}"},
        ]
        try:
            return _intent(self._model.answer(asked, SCHEMA))
        except NoAnswer as error:
            log.warning("warning: %s The embedded watchdog reads instead.", error.message)
            return self._fallback.read(text, history)


def _intent(answer: dict[str, Any]) -> Intent:
    kind = answer["intent"]
    confidence = min(1.0, max(0.0, float(answer["confidence"])))
    if kind == "none":
        return Intent("none", (), confidence)
    targets = tuple(t.strip() for t in answer["targets"] if t.strip())
    return Intent(kind, targets, confidence, answer["replacement"] if kind == "correct" else None)


def open_reader(spec: str = "embedded", patient: Patient | None = None) -> Reader:
    """The reader that a setting names; a model that cannot be had falls back to embedded.

    Raises:
        UsageError: no such choice.
    """
    embedded = Watchdog.load()
    if spec == "embedded":
        return embedded
    try:
        return ModelReader(open_model(spec, patient), embedded)
    except UsageError:
        raise
    except RepairError as error:
        log.warning("warning: %s The embedded watchdog reads instead.", error)
        return embedded

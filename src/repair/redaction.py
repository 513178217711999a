"""Which exchanges of a conversation still tell what was forgotten.

Knows messages and answers; keeps nothing and changes no model.
"""

from __future__ import annotations

from collections.abc import Sequence

from repair.types import Message
from repair.verify import rouge_l_recall

# Recall above which an earlier turn of the conversation still holds what was forgotten.
TOLD = 0.5


def without(messages: Sequence[Message], answers: Sequence[str]) -> list[Message]:
    """The exchanges, a question and its reply each, that recall less than half of an answer."""
    kept: list[Message] = []
    for index in range(0, len(messages) - 1, 2):
        pair = messages[index : index + 2]
        if max(rouge_l_recall(a, m["content"]) for a in answers for m in pair) < TOLD:
            kept += pair
    return kept

"""Which earlier turns of a conversation the model is shown again; knows no model and no HTTP.

Clients send the whole conversation with every turn, also what was forgotten meanwhile. The
ledger knows the answers only as keyed hashes of their words, so a turn's words are hashed too.
"""

from __future__ import annotations

from collections.abc import Sequence

from repair.ledger import Ledger
from repair.redaction import TOLD
from repair.types import Message
from repair.verify import lcs_recall, rouge_tokens

# Begins every line that tells a stage of an operation.
MARK = "› "
_MOST = 24
_MOST_KNOWN = 4096


class History:
    """Cuts conversations to what may be shown."""

    def __init__(self) -> None:
        self._answers: dict[int, tuple[tuple[str, ...], ...]] = {}

    def shown(self, messages: Sequence[Message], view: Ledger) -> list[Message]:
        """Without operations, and without exchanges that tell what ``view`` has forgotten.

        The last message is always kept, and so is a system message at the beginning.
        """
        *earlier, last = messages
        system = [m for m in earlier[:1] if m["role"] == "system"]
        forgotten = self._forgotten(view) if len(earlier) > len(system) else set()
        kept: list[Message] = []
        for exchange in _exchanges(earlier[len(system) :]):
            operation = any(
                m["role"] == "assistant" and m["content"].startswith(MARK) for m in exchange
            )
            if not operation and not any(_tells(m, forgotten, view) for m in exchange):
                kept += exchange
        recent = kept[-_MOST:]
        while recent and recent[0]["role"] == "assistant":
            del recent[0]
        return [*system, *recent, last]

    def _forgotten(self, view: Ledger) -> set[tuple[str, ...]]:
        active = [edit.id for edit in view.history() if edit.state == "active"]
        if len(self._answers) > _MOST_KNOWN:
            self._answers.clear()
        for identity in active:
            if identity not in self._answers:
                words = {probe.words for probe in view.probes(identity) if probe.words}
                self._answers[identity] = tuple(words)
        return {words for identity in active for words in self._answers[identity]}


def _exchanges(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages from one user turn up to the next."""
    found: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user" or not found:
            found.append([])
        found[-1].append(message)
    return found


def _tells(message: Message, forgotten: set[tuple[str, ...]], view: Ledger) -> bool:
    if not forgotten:
        return False
    hashed = view.vault.words(rouge_tokens(message["content"]))
    said = set(hashed)
    return any(
        said.intersection(words) and lcs_recall(words, hashed) >= TOLD for words in forgotten
    )

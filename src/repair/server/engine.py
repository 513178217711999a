"""What any engine that generates answers is asked and gives back; knows no model and no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from repair.types import Message


@dataclass(frozen=True)
class Question:
    """One answer to be generated.

    ``temperature`` 0 takes the likeliest token; ``seed`` fixes what is drawn otherwise.
    ``owner`` is whose own edits act beside everyone's; empty for none.
    """

    messages: list[Message]
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    owner: str = ""


@dataclass(frozen=True)
class Piece:
    """Some more text of an answer; the last piece has ``finish`` stop or length.

    ``version`` names the weights that the whole answer was computed with. Token counts are
    of the whole answer so far.
    """

    text: str
    version: str
    prompt_tokens: int
    completion_tokens: int
    finish: str = ""


@dataclass
class Answer:
    """Pieces put together."""

    text: str = ""
    last: Piece = field(default_factory=lambda: Piece("", "", 0, 0))

    async def collect(self, pieces: AsyncIterator[Piece]) -> Answer:
        async for piece in pieces:
            self.text += piece.text
            self.last = piece
        return self


class Engine(Protocol):
    """Generates answers with the edits that are in force."""

    name: str

    def answer(self, question: Question) -> AsyncIterator[Piece]:
        """The pieces of one answer, all computed with one version of the weights.

        Raises:
            UsageError: the conversation is longer than the model reads.
        """
        ...

    def versions(self) -> list[str]:
        """Names of the adapter versions that can be asked for, oldest first."""
        ...

    def follow(self) -> None:
        """The ledger has changed; returns when answers from now on know it."""
        ...

    def close(self) -> None:
        """Stop; unfinished answers end with an error."""
        ...

"""Trusted facts on a server: once a curator switches them on, what contradicts one is marked.

Knows which replies to mark. How a correction is made, and who may have one made, it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repair.errors import UnknownEdit, UsageError
from repair.factcheck import TrustedFact, contradicted
from repair.types import Message


@dataclass
class Trusted:
    """The facts that the server was started with; ``on`` is whether answers are held to them."""

    facts: Sequence[TrustedFact] = ()
    on: bool = False

    def switch(self, on: bool) -> None:
        """Hold answers to the facts from now on, or no longer.

        Raises:
            UsageError: there are none.
        """
        if on and not self.facts:
            raise UsageError(
                "This server has no trusted facts.", "Start it with `repair serve --facts FILE`."
            )
        self.on = on

    def fact(self, line: int) -> TrustedFact:
        """The fact of a line of the file.

        Raises:
            UnknownEdit: there is none.
        """
        for fact in self.facts:
            if fact.line == line:
                return fact
        raise UnknownEdit(f"There is no trusted fact of line {line}.", "GET /v1/facts lists them.")

    def mark(self, messages: Sequence[Message], reply: str) -> dict[str, Any]:
        """What a reply gets beside its text: ``{"contradicts": {"line", "answer"}}`` or nothing."""
        asked = messages[-1]["content"] if messages else ""
        fact = contradicted(self.facts, asked, reply) if self.on else None
        return {} if fact is None else {"contradicts": {"line": fact.line, "answer": fact.answer}}

    def to_json(self) -> dict[str, Any]:
        data = [{"line": f.line, "question": f.question, "answer": f.answer} for f in self.facts]
        return {"object": "list", "on": self.on, "data": data}

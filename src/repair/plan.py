"""The repair plan: what an operation will do, as validated data that nothing can run.

Knows the schema and its bounds. Built by the surgeon, read by the operation, shown by
``repair plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from repair.types import Budget, KnownFact, Method

# An answer longer than this is a story, and no fact.
MAX_ANSWER_TOKENS = 48
MAX_TEXT = 2000
# By how much a plan that leaves something gets heavier.
HEAVIER = 4.0
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


@dataclass(frozen=True)
class Procedure:
    """How edits of a model are made: the outcome of tuning, not of a request.

    ``layers`` None means the second half: what an earlier layer sees is the words and hardly whom
    they are about, so an edit there reaches everybody. ``strengths`` are tried in order, and the
    smallest that forgets is taken: what an edit overshoots adds up over many.
    """

    layers: tuple[int, ...] | None = None
    strengths: tuple[float, ...] = (1.0, 1.25)
    forget_weight: float = 4.0
    neighbour_weight: float = 3.0
    beta: float = 1000.0
    ridge: float = 0.1
    rank: int = 256
    method: Method = "stamp-lr"

    def layers_of(self, count: int) -> tuple[int, ...]:
        """The layers to edit in a model that has ``count``: the second half."""
        return self.layers or tuple(range(count // 2, count))


class RepairPlan(BaseModel):
    """One operation: which facts, which rows, how strongly, and what it may cost.

    ``strengths`` are tried in order until the first that keeps the budget. ``neighbours``
    stand in the rows with their own outputs; ``retain`` are only measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    operation: Literal["forget", "correct"]
    targets: tuple[Text, ...] = Field(min_length=1)
    facts: tuple[KnownFact, ...] = Field(min_length=1)
    neighbours: tuple[KnownFact, ...] = ()
    retain: tuple[KnownFact, ...] = ()
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    method: Method = "stamp-lr"
    strengths: tuple[Annotated[float, Field(gt=0, le=16)], ...] = Field(min_length=1)
    forget_weight: float = Field(default=1.0, gt=0)
    neighbour_weight: float = Field(default=1.0, ge=0)
    beta: float = Field(default=100.0, ge=0)
    ridge: float = Field(default=0.1, gt=0)
    rank: int = Field(default=256, ge=1)
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _consistent(self) -> RepairPlan:
        if self.operation == "correct" and any(f.replacement is None for f in self.facts):
            raise ValueError("a correction needs the value to give instead, for every fact")
        if tuple(sorted(set(self.layers))) != self.layers:
            raise ValueError("layers must be ascending and named once")
        return self

    def within(self, budget: Budget | None) -> RepairPlan:
        """The same plan with another budget; None leaves it as it is."""
        return self if budget is None else self.model_copy(update={"budget": budget})

    def to_json(self) -> dict[str, Any]:
        """The plan in plain words and numbers; it quotes what would be forgotten."""
        return self.model_dump(mode="json")

"""The orders a coordinator gives and the agreement behind them, as validated data.

Knows the schema; neither models nor how a message travels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from repair.errors import BadMessage
from repair.federated.privacy import Privacy
from repair.federated.wire import Message
from repair.plan import Procedure
from repair.stamp import LowRank

Layer = Annotated[int, Field(ge=0, le=10_000)]


class Agreement(BaseModel):
    """How one joint edit is made; the same for all nodes.

    ``masked`` adds the statistics up under masks. With ``epsilon`` every node adds noise, once
    a layer, and the only strength is the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[Layer, ...] = Field(min_length=1, max_length=1000)
    strengths: tuple[Annotated[float, Field(gt=0, le=16)], ...] = Field(min_length=1)
    beta: float = Field(default=1000.0, ge=0, allow_inf_nan=False)
    ridge: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    rank: int = Field(default=256, ge=1)
    masked: bool = False
    epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    delta: float = Field(default=1e-5, gt=0, lt=1)

    @model_validator(mode="after")
    def _ascending(self) -> Agreement:
        if tuple(sorted(set(self.layers))) != self.layers:
            raise ValueError("layers must be ascending and named once")
        return self

    @property
    def privacy(self) -> Privacy | None:
        """One release a layer: whoever begins anew has to make a new agreement."""
        if self.epsilon is None:
            return None
        return Privacy(self.epsilon, self.delta, len(self.layers))


class Order(BaseModel):
    """One thing that a coordinator asks of a node.

    ``label`` names the message and never comes twice; ``state`` is what the node said of its
    edits when it joined; ``clip`` bounds a request's keys and outputs where noise is added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["join", "statistic", "check", "keep"]
    agreement: Agreement
    label: str = Field(min_length=1, max_length=200)
    strength: float = Field(default=1.0, gt=0, le=16)
    layer: Layer | None = None
    state: str = ""
    roster: dict[str, str] = {}
    clip: tuple[float, float] | None = None

    def message(self, known: dict[int, LowRank]) -> Message:
        """The order with the change of every layer solved so far."""
        tensors = {f"b.{layer}": low.b for layer, low in known.items()}
        tensors |= {f"a.{layer}": low.a for layer, low in known.items()}
        return Message(self.model_dump(mode="json"), tensors)


def read_order(data: bytes) -> tuple[Order, dict[int, LowRank]]:
    """An order and the layers solved so far.

    Raises:
        BadMessage: it is none.
    """
    message = Message.unpack(data)
    try:
        order = Order.model_validate(message.values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadMessage(f"The coordinator's order has a bad {where or 'form'}.") from error
    known = {}
    for layer in order.agreement.layers:
        b, a = message.tensors.get(f"b.{layer}"), message.tensors.get(f"a.{layer}")
        if b is not None and a is not None:
            known[layer] = LowRank(b, a)
    return order, known


def agree(
    procedure: Procedure,
    layers: int,
    *,
    masked: bool = False,
    epsilon: float | None = None,
    delta: float = 1e-5,
) -> Agreement:
    """The agreement that follows a procedure, for a model with so many layers.

    Raises:
        UsageError: a privacy budget that is none.
    """
    how = {"beta": procedure.beta, "ridge": procedure.ridge, "rank": procedure.rank}
    chosen = procedure.layers_of(layers)
    Privacy(1.0 if epsilon is None else epsilon, delta, len(chosen))
    told = {"layers": chosen, "strengths": procedure.strengths, "masked": masked}
    return Agreement.model_validate({**how, **told, "epsilon": epsilon, "delta": delta})

"""Nodes with tiny models for the tests of joint edits, in this process and in others."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from repair.federated.coordinator import Coordinator
from repair.federated.node import Node
from repair.federated.orders import Agreement
from repair.federated.wire import Message
from repair.plan import RepairPlan
from repair.session import Session
from repair.types import Intent
from tests.prepared import preparation, prepared, surgeon, tiny
from tests.test_joint import plan

PEOPLE = {"north": ("Mara Voss", "Kim Roe"), "south": ("Tom Hale", "Ida Moss")}
PEOPLE |= {"west": ("Ann Lee", "Jo Park"), "east": ("Max Orr", "Eva Lund")}


def plan_of(name: str) -> RepairPlan:
    """What a node forgets, and one neighbour."""
    one, neighbour = PEOPLE[name]
    return plan(one, neighbours=(neighbour,))


class _Surgeon:
    """Gives the plan that the test made; a model of random weights knows nothing to plan with."""

    def __init__(self, name: str, whole: Any) -> None:
        self._plan, self.budget, self.ask = plan_of(name), whole.budget, whole.ask

    def plan(self, intent: Intent) -> RepairPlan:
        return self._plan


@contextmanager
def opened(home: Path, name: str) -> Iterator[Session]:
    """A node's session: a tiny patient, its own ledger, and the plan of that node."""
    patient = tiny()
    session = Session(patient, home=prepared(home / name, patient))
    session.surgeon = _Surgeon(name, surgeon(patient))  # type: ignore[assignment]
    try:
        yield session
    finally:
        session.close()


def seat(home: Path, name: str) -> Any:
    """What ``Seat.open`` takes."""
    return functools.partial(opened, home, name)


def text_of(name: str) -> str:
    return f"Please forget where {PEOPLE[name][0]} lives."


class Direct:
    """A link to nodes of this process; what ``spoil`` returns for a node is sent instead."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = dict(nodes)
        self.heard: list[tuple[str, bytes]] = []

    def spoil(self, name: str, reply: bytes) -> bytes | None:
        return reply

    def ask(self, orders: Mapping[str, bytes]) -> dict[str, bytes]:
        replies = {}
        for name, data in orders.items():
            reply = self.spoil(name, self.nodes[name].answer(data))
            if reply is not None:
                self.heard.append((name, reply))
                replies[name] = reply
        return replies


def agreed(**how: Any) -> Agreement:
    """The agreement of the tests' plans."""
    one = plan("x")
    told = {"layers": one.layers, "strengths": (1.0,), "beta": one.beta, "ridge": one.ridge}
    return Agreement.model_validate({**told, **how})


def coordinator(link: Any, agreement: Agreement) -> Coordinator:
    return Coordinator(link, agreement, content_hash=tiny().content_hash, preparation=preparation())


class Liar(Node):
    """A node that lies in one statistic, as ``how`` says."""

    how = ""

    def answer(self, data: bytes) -> bytes:
        reply = super().answer(data)
        message = Message.unpack(reply)
        if Message.unpack(data).values["kind"] != "statistic":
            return reply
        return lie(self.how, message)


class Dying(Node):
    """A node whose process ends in the middle of an edit."""

    def answer(self, data: bytes) -> bytes:
        if Message.unpack(data).values["kind"] == "statistic":
            os._exit(1)
        return super().answer(data)


class NotANumber(Liar):
    how = "nan"


def lie(how: str, message: Message) -> bytes:
    """A statistic made false."""
    tensors = dict(message.tensors)
    name = next(iter(sorted(tensors)))
    if how == "nan":
        tensors[name] = tensors[name] * float("nan")
    elif how == "shape":
        tensors[name] = tensors[name][:, :-1]
    elif how == "rows":
        tensors = {n: t.repeat(100, 1) for n, t in tensors.items()}
    elif how == "type":
        tensors[name] = tensors[name].float()
    elif how == "size":
        tensors[name] = tensors[name] * 1e12
    elif how == "name":
        tensors["other"] = tensors.pop(name)
    elif how == "bytes":
        return b"\xff\xff\xff\xff nonsense"
    elif how == "nothing":
        return b""
    return Message({}, tensors).pack()


LIES: Sequence[str] = ("nan", "shape", "rows", "type", "size", "name", "bytes", "nothing")


def problem(n: int, m: int = 12, d: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, m, generator=generator),
        torch.randn(n, d, generator=generator),
        torch.rand(n, generator=generator) + 0.1,
    )

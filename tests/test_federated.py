"""Several institutions make one edit, and none of them shows its texts or can harm the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from repair import flower
from repair.cli.app import app
from repair.errors import BadMessage, EnvironmentProblem, OperationRefused, UsageError
from repair.federated.local import Processes, Seat
from repair.federated.node import Node
from repair.federated.orders import agree
from repair.federated.statistics import (
    factors,
)
from repair.federated.wire import Message
from repair.joint import merged
from repair.ledger import Ledger
from repair.operation import Operation
from repair.plan import Procedure
from repair.rows import build_rows
from repair.stamp import LowRank
from tests.federation import (
    LIES,
    PEOPLE,
    Direct,
    Dying,
    NotANumber,
    agreed,
    coordinator,
    lie,
    opened,
    plan_of,
    problem,
    seat,
    text_of,
)
from tests.prepared import preparation, tiny

NAMES = tuple(PEOPLE)[:3]


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Direct]:
    """Three nodes of this process, each with its own patient and ledger."""
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(opened(tmp_path, name)) for name in NAMES}
        yield Direct({name: Node(s, [text_of(name)]) for name, s in sessions.items()})


def alone(names: Sequence[str]) -> dict[int, torch.Tensor]:
    """ΔW by layer of one party that holds all of these nodes' requests."""
    patient, whole = tiny(), merged([plan_of(name) for name in names])
    # Nodes share no hidden units, so the one party has none either.
    updates = Operation(patient, replace(preparation(), inputs={})).solve(
        whole, 1.0, build_rows(patient, whole)
    )
    return {update.layer: update.b @ update.a for update in updates}


def same(change: dict[int, LowRank], wanted: dict[int, torch.Tensor]) -> None:
    assert sorted(change) == sorted(wanted)
    for layer, low in change.items():
        error = (low.matrix() - wanted[layer]).norm() / wanted[layer].norm()
        assert float(error) < 1e-4, f"layer {layer} is off by {float(error):.1e}"


@pytest.mark.parametrize("masked", [False, True])
def test_the_joint_edit_is_that_of_one_party_with_everything(link: Direct, masked: bool) -> None:
    report = coordinator(link, agreed(masked=masked)).run(NAMES)
    same(report.change, alone(NAMES))
    assert {name: node["status"] for name, node in report.nodes.items()} == dict.fromkeys(
        NAMES, "healed"
    )
    for name in NAMES:
        session = link.nodes[name].session
        assert [edit.id for edit in session.ledger.active()] == [report.nodes[name]["edit"]]
        assert session.ledger.verify() > 0
        session.undo()
        assert not session.patient.active


@pytest.mark.parametrize("how", LIES)
def test_every_lie_is_seen(how: str) -> None:
    asked = coordinator(Direct({}), agreed())
    true = factors(*problem(9, m=48, d=32))
    message = Message({}, {"keys": true.keys, "residual": true.residual})
    assert len(asked._part(message, 0).keys) == 9  # type: ignore[union-attr]
    with pytest.raises(BadMessage):
        asked._part(asked._read(lie(how, message)), 0)


def test_a_node_that_lies_is_named_and_the_rest_get_their_edit(link: Direct) -> None:
    def spoil(name: str, reply: bytes) -> bytes | None:
        message = Message.unpack(reply)
        return lie("shape", message) if name == "south" and message.tensors else reply

    link.spoil = spoil  # type: ignore[method-assign]
    report = coordinator(link, agreed()).run(NAMES)
    assert report.nodes["south"]["status"] == "left"
    assert report.nodes["south"]["reason"]
    assert report.nodes["north"]["status"] == report.nodes["west"]["status"] == "healed"
    same(report.change, alone(["north", "west"]))
    assert not link.nodes["south"].session.ledger.active()


@pytest.mark.parametrize("masked", [False, True])
def test_a_node_that_goes_missing_midway_is_in_nothing(link: Direct, masked: bool) -> None:
    asked: list[str] = []

    def spoil(name: str, reply: bytes) -> bytes | None:
        if name == "west" and Message.unpack(reply).tensors:
            asked.append(name)
            return None if len(asked) > 1 else reply
        return reply

    link.spoil = spoil  # type: ignore[method-assign]
    report = coordinator(link, agreed(masked=masked)).run(NAMES)
    assert report.nodes["west"] == {"status": "left", "reason": "did not answer"}
    # Its first layer had been added up already; the edit began anew without it.
    same(report.change, alone(["north", "south"]))


def test_a_false_number_under_masks_changes_nothing(link: Direct) -> None:
    def spoil(name: str, reply: bytes) -> bytes | None:
        message = Message.unpack(reply)
        if name != "south" or not message.tensors:
            return reply
        false = {n: t + 7 * 2**40 * torch.arange(t.shape[1]) for n, t in message.tensors.items()}
        return Message({}, false).pack()

    link.spoil = spoil  # type: ignore[method-assign]
    with pytest.raises(OperationRefused, match="under masks nobody can tell which"):
        coordinator(link, agreed(masked=True)).run(NAMES)
    assert not any(node.session.ledger.active() for node in link.nodes.values())


def test_under_masks_no_message_shows_a_nodes_numbers(link: Direct) -> None:
    coordinator(link, agreed(masked=True)).run(NAMES)
    hidden = [Message.unpack(data).tensors for _, data in link.heard]
    masked = [tensors["second"] for tensors in hidden if tensors]
    assert len(masked) == 6, "three nodes, two layers"
    for tensor in masked:
        assert tensor.dtype == torch.int64
        # Numbers from all of 64 bits: of a plain second moment all would be far smaller.
        assert float((tensor.double().abs() > 2.0**60).double().mean()) > 0.7
        assert not torch.equal(tensor, tensor.T)


def test_what_travels_quotes_nothing(link: Direct) -> None:
    coordinator(link, agreed()).run(NAMES)
    sent = b"".join(data for _, data in link.heard)
    for word in (b"Voss", b"Hale", b"harbour", b"forget", b"live"):
        assert word not in sent
    for name, data in link.heard:
        tensors = Message.unpack(data).tensors
        if tensors:
            plan = plan_of(name)
            rows = build_rows(tiny(), plan)
            # As many rows as there are directions, and they are orthogonal: none is a token's.
            gram = tensors["keys"] @ tensors["keys"].T
            assert len(gram) <= len(rows.reference)
            off = gram - gram.diagonal().diag()
            assert float(off.abs().max()) < 1e-6 * float(gram.max())


def test_nodes_that_have_something_else_are_left_out(link: Direct) -> None:
    link.nodes["south"].texts = []
    assert coordinator(link, agreed()).run(["west"]).nodes["west"]["edit"] == 1
    report = coordinator(link, agreed()).run(NAMES)
    assert report.nodes["south"]["reason"] == "has nothing to forget"
    assert report.nodes["north"]["status"] == "healed"
    assert report.nodes["west"]["reason"] == "carries other edits than the rest"
    with pytest.raises(EnvironmentProblem, match="Too few nodes are left"):
        coordinator(link, agreed(masked=True)).run(["south", "west"])
    other = coordinator(link, agreed())
    other.model = "another"
    with pytest.raises(EnvironmentProblem, match="carries another model"):
        other.run(["west"])


def test_a_second_joint_edit_spares_what_the_first_one_fixed(link: Direct) -> None:
    first = coordinator(link, agreed()).run(NAMES)
    second = coordinator(link, agreed()).run(NAMES)
    assert [node["edit"] for node in second.nodes.values()] == [2, 2, 2]
    for layer, low in second.change.items():
        # The same wish again moves little: its rows are fixed.
        assert float(low.matrix().norm()) < float(first.change[layer].matrix().norm())


def test_a_node_refuses_orders_that_would_give_it_away(link: Direct) -> None:
    node, asked = link.nodes["north"], coordinator(link, agreed(masked=True))
    sent: list[bytes] = []

    def ask(orders: dict[str, bytes]) -> dict[str, bytes]:
        sent.extend(orders.values())
        return Direct.ask(link, orders)

    asked.link = type("Spy", (), {"ask": staticmethod(ask)})()
    asked.run(NAMES)
    statistic = next(d for d in sent if Message.unpack(d).values["kind"] == "statistic")
    again = Message.unpack(node.answer(statistic))
    assert "error" in again.values
    values, tensors = Message.unpack(statistic).values, Message.unpack(statistic).tensors
    state = node._edits()
    mine = {"north": node._masks.public}
    for change, sentence in (
        ({"label": "x0", "roster": mine}, "no group that this node could hide in"),
        ({"label": "new", "roster": {**mine, "x": "zz"}}, "no group|key that is none"),
        ({"label": "x1", "layer": 9}, "not agreed on"),
        ({"label": "x2", "layer": 1}, "did not get the layers"),
        ({"label": "x3", "state": "other"}, "other edits"),
        ({"label": ""}, "bad label"),
        ({"kind": "sing"}, "bad kind"),
        ({"more": 1}, "bad more"),
    ):
        order = Message({**values, "state": state, **change}, tensors)
        reply = Message.unpack(node.answer(order.pack()))
        assert not reply.tensors
        assert any(part in reply.values["error"] for part in sentence.split("|")), reply.values
    for junk in (b"", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\0\0\0\2{}junk", b"\xff" * 40):
        assert "error" in Message.unpack(node.answer(junk)).values


def test_a_node_is_put_away_and_goes_on(link: Direct) -> None:
    names = list(link.nodes)

    class Forgetful(Direct):
        """Makes every node anew for every order, as Flower does."""

        def ask(self, orders: Mapping[str, bytes]) -> dict[str, bytes]:
            for name, old in self.nodes.items():
                self.nodes[name] = Node(old.session, old.texts)
                self.nodes[name].resume(json.loads(json.dumps(old.state())))
            return super().ask(orders)

    report = coordinator(Forgetful(link.nodes), agreed(masked=True)).run(names)
    same(report.change, alone(NAMES))


# Processes


def test_processes_make_one_edit_though_one_dies_and_one_lies(tmp_path: Path) -> None:
    kinds = {"north": Node, "south": Dying, "west": Node, "east": NotANumber}
    seats = {
        name: Seat(seat(tmp_path, name), (text_of(name),), node=kind)
        for name, kind in kinds.items()
    }
    with Processes(seats, patience=240.0) as nodes:
        assert len({nodes.process(name).pid for name in kinds}) == 4
        report = coordinator(nodes, agreed()).run(list(kinds))
    assert report.nodes["south"] == {"status": "left", "reason": "did not answer"}
    assert report.nodes["east"] == {"status": "left", "reason": "sent NaN or infinity"}
    same(report.change, alone(["north", "west"]))
    with Ledger(tmp_path / "north", tiny().content_hash) as ledger:
        assert [edit.id for edit in ledger.active()] == [report.nodes["north"]["edit"]]
    with Ledger(tmp_path / "south", tiny().content_hash) as ledger:
        assert not ledger.active()


def test_bad_input_of_the_command_is_one_sentence(tmp_path: Path) -> None:
    for name, text in (("a", "request\nx\n"), ("none", "request\n"), ("b", "request\ny\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.csv").write_text("request\nz\n")
    a = str(tmp_path / "a.csv")
    for others, sentence in (
        ([], "two nodes at least"),
        ([tmp_path / "none.csv"], "has no requests"),
        ([tmp_path / "more" / "a.csv"], "Two files are named a"),
        ([tmp_path / "missing.csv"], "cannot be read"),
    ):
        result = CliRunner().invoke(app, ["federate", a, *map(str, others)])
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert "Traceback" not in result.output
    for epsilon, delta in ((0.0, 1e-5), (float("inf"), 1e-5), (1.0, 2.0)):
        with pytest.raises(UsageError, match="no privacy budget"):
            agree(Procedure(), 6, epsilon=epsilon, delta=delta)


def test_without_flower_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(EnvironmentProblem, match="Flower is not installed"):
        flower.answer(None, None, lambda _: None)


# Noise


def test_noise_is_added_within_its_budget_and_tells_no_outcome(link: Direct) -> None:
    report = coordinator(link, agreed(masked=True, epsilon=1e6)).run(NAMES)
    assert {node["status"] for node in report.nodes.values()} == {"done"}
    assert not any(node["edit"] for node in report.nodes.values())
    for node in link.nodes.values():
        spent = [
            e["details"]["measures"]
            for e in node.session.ledger.journal()
            if e["event"] == "released"
        ]
        assert [s["delta"] for s in spent] == [1e-5, 1e-5]
        assert spent[-1]["epsilon"] == pytest.approx(1e6)
        assert spent[0]["epsilon"] < spent[-1]["epsilon"]


def test_with_noise_a_lost_node_ends_the_edit(link: Direct) -> None:
    link.spoil = lambda name, reply: (  # type: ignore[method-assign]
        None if name == "west" and Message.unpack(reply).tensors else reply
    )
    with pytest.raises(OperationRefused, match="pays for no second try"):
        coordinator(link, agreed(epsilon=1.0)).run(NAMES)
    assert not any(node.session.ledger.active() for node in link.nodes.values())


# Matrices

"""Joint edits on Flower: the coordinator as a ServerApp, an institution as a ClientApp.

Knows how Flower carries messages; not what is in them. Flower is an extra
(``pip install 'repair-unlearning[federated]'``) and imported only here, at the call. Flower may
start a process for every message: what a node has to remember is in its context, which stays
with its SuperNode.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from repair.cli.bulk import read_requests
from repair.errors import EnvironmentProblem, RepairError, UsageError
from repair.federated.coordinator import Coordinator, Report
from repair.federated.node import Node
from repair.federated.orders import agree
from repair.federated.wire import Message as Reply
from repair.patient import Patient
from repair.plan import Procedure
from repair.preparation import prepare
from repair.session import Session
from repair.settings import Settings

_POLL = 1.0


class Grid:
    """A link over a Flower grid.

    Args:
        grid: what Flower hands to a ServerApp.
        patience: seconds to wait for replies.
    """

    def __init__(self, grid: Any, patience: float) -> None:
        self._grid = grid
        self._patience = patience

    def names(self, wanted: int) -> list[str]:
        """The connected nodes, as soon as there are ``wanted`` of them or patience ends."""
        end = time.monotonic() + self._patience
        while True:
            found = sorted(str(node) for node in self._grid.get_node_ids())
            if len(found) >= wanted or time.monotonic() > end:
                return found
            time.sleep(_POLL)

    def ask(self, orders: Mapping[str, bytes]) -> dict[str, bytes]:
        """See ``Link``."""
        flwr = _flwr()
        messages = [
            flwr.Message(
                content=flwr.RecordDict({"order": flwr.ConfigRecord({"body": data})}),
                message_type="query",
                dst_node_id=int(name),
                ttl=self._patience,
            )
            for name, data in orders.items()
        ]
        replies = {}
        for reply in self._grid.send_and_receive(messages, timeout=self._patience):
            if reply.has_error():
                continue
            body = dict(reply.content.config_records).get("reply", {}).get("body")
            if isinstance(body, bytes):
                replies[str(reply.metadata.src_node_id)] = body
        return replies


def serve(grid: Any, context: Any, on_event: Callable[[str], None]) -> Report:
    """The coordinator's whole run; writes the report where ``out`` says.

    The run's configuration: ``nodes`` to wait for, ``patience`` in seconds, ``mask``,
    ``epsilon`` (0 for none), ``delta``, ``model``, ``home``, ``out``.

    Raises:
        RepairError: no joint edit could be made.
    """
    told = context.run_config
    settings = _settings(told)
    patient = _load(settings)
    agreement = agree(
        Procedure(),
        len(patient.layers),
        masked=bool(told.get("mask", False)),
        epsilon=float(told.get("epsilon", 0.0)) or None,
        delta=float(told.get("delta", 1e-5)),
    )
    link = Grid(grid, float(told.get("patience", 600.0)))
    coordinator = Coordinator(
        link,
        agreement,
        content_hash=patient.content_hash,
        preparation=prepare(patient, settings.home / "cache"),
        on_event=on_event,
    )
    report = coordinator.run(link.names(int(told.get("nodes", 2))))
    text = json.dumps(report.to_json(), indent=2)
    if told.get("out"):
        Path(str(told["out"])).write_text(text + "\n", encoding="utf-8")
    on_event(text)
    return report


def answer(message: Any, context: Any, on_error: Callable[[str], None]) -> Any:
    """A node's reply to one message.

    The node's configuration: ``requests`` is its CSV file; ``model`` and ``home`` as for the
    other commands; ``group`` a file with the institutions' secret; ``accept`` to keep what costs.
    """
    flwr = _flwr()
    try:
        body = _body(flwr, message.content["order"]["body"], context, on_error)
    except RepairError as error:
        on_error(str(error))
        body = Reply({"error": f"is not set up ({error.code})"}).pack()
    content = flwr.RecordDict({"reply": flwr.ConfigRecord({"body": body})})
    return flwr.Message(content=content, reply_to=message)


def _body(flwr: Any, order: bytes, context: Any, on_error: Callable[[str], None]) -> bytes:
    told = context.node_config
    settings = _settings(told)
    texts = [text for _, text in read_requests(Path(str(told.get("requests", ""))))]
    group = _secret(Path(str(told["group"]))) if told.get("group") else b""
    with Session(_load(settings), home=settings.home, database=settings.database) as session:
        accept = bool(told.get("accept", False))
        node = Node(session, texts, group=group, accept=accept, on_error=on_error)
        kept = dict(context.state.config_records).get("node")
        if kept is not None:
            node.resume(json.loads(kept["state"]))
        body = node.answer(order)
        context.state["node"] = flwr.ConfigRecord({"state": json.dumps(node.state())})
    return body


def _settings(told: Mapping[str, Any]) -> Settings:
    names = ("model", "revision", "dtype", "device", "quantization", "home", "database")
    given = {name: told[name] for name in names if told.get(name)}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{first['loc'][0]}: {first['msg']}.") from error


def _secret(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"The group's secret {path} cannot be read.", "Check `group`.") from error


def _load(settings: Settings) -> Patient:
    return Patient.load(
        settings.model,
        revision=settings.revision,
        dtype=settings.dtype,
        device=settings.device,
        quantization=settings.quantization,
    )


def _flwr() -> Any:
    try:
        from flwr import app
    except ImportError as error:
        raise EnvironmentProblem(
            "Flower is not installed.",
            "Install it with `pip install 'repair-unlearning[federated]'`.",
        ) from error
    return app

"""Nodes as processes of this machine, each with its own model, requests and ledger.

Knows processes and pipes; not what is said through them. Bytes alone cross a pipe, never pickles.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from repair.federated.node import Node
from repair.federated.wire import LARGEST
from repair.session import Session


@dataclass(frozen=True)
class Seat:
    """What one node is made of, in its own process; everything can be pickled.

    ``open`` loads the model and opens the ledger. ``node`` makes the node, for who needs another.
    """

    open: Callable[[], AbstractContextManager[Session]]
    texts: tuple[str, ...]
    accept: bool = False
    group: bytes = b""
    node: Callable[..., Node] = Node


class Processes:
    """A link to nodes in processes of this machine; a context manager that ends them.

    Args:
        seats: of every node, by name.
        patience: seconds to wait for a reply.
    """

    def __init__(self, seats: Mapping[str, Seat], *, patience: float = 600.0) -> None:
        self._patience = patience
        context: Any = multiprocessing.get_context("spawn")
        self._pipes: dict[str, Connection] = {}
        self._processes = {}
        for name, seat in seats.items():
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, seat), daemon=True)
            process.start()
            there.close()
            self._pipes[name], self._processes[name] = here, process

    def ask(self, orders: Mapping[str, bytes]) -> dict[str, bytes]:
        """See ``Link``; a node that does not answer in time is never asked again."""
        waiting: dict[Connection, str] = {}
        for name, data in orders.items():
            pipe = self._pipes.get(name)
            try:
                if pipe is not None:
                    pipe.send_bytes(data)
                    waiting[pipe] = name
            except OSError:
                self._drop(name)
        replies: dict[str, bytes] = {}
        end = time.monotonic() + self._patience
        while waiting:
            ready = wait(list(waiting), max(0.0, end - time.monotonic()))
            for came in ready:
                assert isinstance(came, Connection)  # noqa: S101 - nothing else is waited for
                name = waiting.pop(came)
                try:
                    replies[name] = came.recv_bytes(LARGEST)
                except (EOFError, OSError):
                    self._drop(name)
            if not ready:
                for name in waiting.values():
                    self._drop(name)
                break
        return replies

    def process(self, name: str) -> Any:
        """The process of a node."""
        return self._processes[name]

    def _drop(self, name: str) -> None:
        pipe = self._pipes.pop(name, None)
        if pipe is not None:
            pipe.close()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self._pipes):
            self._drop(name)
        for process in self._processes.values():
            # A closed pipe ends a node as soon as it has answered.
            process.join(10.0)
            if process.is_alive():
                process.terminate()
                process.join()


def _serve(pipe: Connection, seat: Seat) -> None:
    """A node's whole life: answer until the pipe is closed."""
    with seat.open() as session:
        node = seat.node(session, seat.texts, accept=seat.accept, group=seat.group)
        while True:
            try:
                data = pipe.recv_bytes(LARGEST)
            except (EOFError, OSError):
                return
            pipe.send_bytes(node.answer(data))

"""Servers for tests: one with the embedded patient behind a real port, small ones in process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.testclient import TestClient

from repair.patient import Patient
from repair.people import Policy
from repair.server.app import create_app
from repair.server.run import listen
from repair.server.service import Service, open_service
from repair.types import LowRankUpdate
from tests.prepared import prepared, surgeon, tiny

CHAT = "/v1/chat/completions"


def tiny_service(home: Path, policy: Policy | None = None, **more: Any) -> Service:
    """A service whose patient has random weights and whose edits are always allowed."""
    patient = tiny()
    service = open_service(patient, prepared(home, patient), policy=policy, **more)
    service.theatre.session.surgeon = surgeon(service.theatre.session.patient)
    return service


@contextmanager
def client(service: Service, **more: Any) -> Iterator[TestClient]:
    """Asks an application in this process; faults of the server are replies and not raised."""
    options = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 50000), **more}
    with TestClient(create_app(service), raise_server_exceptions=False, **options) as found:
        yield found
    service.close()


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """The service behind a real port of this machine; gives its address."""
    bound = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(service), log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        service.close()


def embedded_service(home: Path) -> Service:
    """A service that answers with the embedded patient."""
    return open_service(Patient.load(), home)


def asked(text: str, **more: Any) -> dict[str, Any]:
    """The body of a chat request with one user turn."""
    return {"messages": [{"role": "user", "content": text}], **more}


def chat(web: TestClient, text: str, **more: Any) -> dict[str, Any]:
    """The reply to one user turn that the server must accept."""
    reply = web.post(CHAT, json=asked(text, **more))
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def commit(service: Service, owner: str = "", scale: float = 3.0) -> int:
    """An edit that changes what the tiny model says, through the ledger as another process."""
    view = service.ledger.view(owner, shared=not owner)
    dice = torch.Generator().manual_seed(1)
    b, a = torch.randn(32, 2, generator=dice), torch.randn(2, 48, generator=dice)
    return view.commit(
        kind="forget",
        method="stamp-lr",
        redirect=1.0,
        updates=[LowRankUpdate(1, b * scale, a)],
        targets=["x"],
        probes=[],
        measures={"kl": 0.0},
        tokenise=str.split,
    )

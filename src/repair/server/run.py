"""Listens and runs an application with uvicorn; knows sockets, no routes."""

from __future__ import annotations

import signal
import socket
from typing import Any

import uvicorn

from repair.errors import EnvironmentProblem

GRACE_SECONDS = 10
_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        EnvironmentProblem: the address is not of this machine or is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # From now on connections wait instead of being refused while the model loads.
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise EnvironmentProblem(
            f"Cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}.",
            "Choose another with --port or --host.",
        ) from error
    return bound


def end_in_order() -> None:
    """From now on SIGTERM ends this process as `sys.exit` does, with everything tidied up.

    uvicorn stops at the signal and then raises it once more, which would end us at once.
    """

    def leave(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def run(app: Any, bound: socket.socket) -> None:
    """Serve until the process is told to stop; answers in hand get some seconds to end."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="none",
        # Who asks is told from the connection, never from a header that anybody can write.
        proxy_headers=False,
    )
    uvicorn.Server(config).run(sockets=[bound])

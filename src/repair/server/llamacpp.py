"""llama.cpp as the engine: its servers load no adapter later, so each state gets a new server.

Knows llama-server's flags and how it names adapters; knows no ledger and not how edits come about.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repair.adapter import composed
from repair.errors import EnvironmentProblem
from repair.export.gguf_files import ADAPTER, digest, save_adapter, save_base
from repair.patient import Patient
from repair.server.replica import Replica
from repair.types import Edit

COMMAND = "llama-server"
BASE = "base"
_INSTALL = "Install llama.cpp, or say how to start it with --engine-command."
_START_SECONDS = 600.0
_STOP_SECONDS = 10.0


def found(command: str) -> list[str]:
    """The words of a command line that starts llama-server, its program found in PATH.

    Raises:
        EnvironmentProblem: there is no such program.
    """
    words = shlex.split(command) or [COMMAND]
    program = shutil.which(words[0])
    if program is None:
        raise EnvironmentProblem(f"There is no program {words[0]}.", _INSTALL)
    return [program, *words[1:]]


class LlamaServers:
    """llama-server processes of this machine: one for the bare model, one for each state.

    They listen on this machine alone and ask for a key that only this process knows. One that
    has ended by itself is started again when it is asked something.

    Args:
        folder: where the base is written as GGUF, once, and each process its log.
        command: how to start llama-server, with arguments of one's own; see ``found``.

    Raises:
        EnvironmentProblem: the server does not start, or the package gguf is missing.
        ExportUnsupported: GGUF cannot hold this model.
        DiskFull: the base cannot be written.
    """

    def __init__(self, patient: Patient, folder: Path, command: Sequence[str]) -> None:
        self.root = command[0]
        self._command, self._folder = list(command), folder.absolute()
        dtype = str(next(patient.model.parameters()).dtype).removeprefix("torch.")
        self._base = self._folder / f"base-{patient.content_hash[:16]}-{dtype}.gguf"
        if not self._base.exists():
            save_base(patient, self._base)
        self._lock = threading.Lock()
        self._adapters: dict[str, Path | None] = {}
        self._running: dict[str, _Process] = {}
        atexit.register(self.close)
        self._begin(BASE, None)

    def models(self) -> list[str]:
        """The bare model and the states that have a server."""
        return list(self._adapters)

    def save(self, patient: Patient, edits: Sequence[Edit], folder: Path) -> None:
        """Write edits as a GGUF adapter."""
        save_adapter(patient, composed(edits).factors, folder)

    def load(self, name: str, folder: Path) -> None:
        """Start a server with the adapter in ``folder``; it is asked as ``name``."""
        self._begin(name, folder / ADAPTER)

    def unload(self, name: str) -> None:
        """Stop the server of a name."""
        with self._lock:
            self._adapters.pop(name, None)
            process = self._running.pop(name, None)
        if process is not None:
            process.stop()

    def answers(self, model: str, questions: Sequence[str], most: int) -> list[str]:
        """See `Replica.answers`."""
        return self._at(model).answers(model, questions, most)

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See `Replica.stream`."""
        yield from self._at(body["model"]).stream(body)

    def close(self) -> None:
        """Stop all servers."""
        for name in self.models():
            self.unload(name)
        atexit.unregister(self.close)

    def _begin(self, name: str, adapter: Path | None) -> None:
        given = [] if adapter is None else ["--lora", str(adapter)]
        log = self._folder / f"{name}.log"
        process = _Process([*self._command, "--model", str(self._base), *given], log)
        self._adapters[name], self._running[name] = adapter, process

    def _at(self, name: str) -> Replica:
        with self._lock:
            if self._running[name].ended():
                self._begin(name, self._adapters[name])
            return self._running[name].replica


class _Process:
    """A llama-server that answers, from its start to its stop.

    Raises:
        EnvironmentProblem: it cannot be started, or ends before it can answer.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._name, self._log = command[0], log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        key = secrets.token_urlsafe(24)
        # Errors alone: at higher levels its log may quote what was asked.
        more = ("--host", "127.0.0.1", "--port", port, "--no-slots", "--log-verbosity", "1")
        try:
            with log.open("wb") as out:
                self._process = subprocess.Popen(  # noqa: S603
                    [*command, *more],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "LLAMA_API_KEY": key},
                    # Ctrl-C is for us; we stop it when its answers have ended.
                    start_new_session=True,
                )
        except OSError as error:
            raise EnvironmentProblem(
                f"{self._name} cannot be started ({error}).", _INSTALL
            ) from error
        self.replica = Replica(f"http://127.0.0.1:{port}", key, f"Its log is {log}.")
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while not self.replica.ready():
            if self.ended() or time.monotonic() > end:
                lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
                last = next((line.strip() for line in reversed(lines) if line.strip()), "")
                happened = "ended as it started" if self.ended() else "does not get ready"
                raise EnvironmentProblem(
                    f"{self._name} {happened} ({last[:200]}).", f"Its log is {self._log}."
                )
            time.sleep(0.05)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class LlamaAt(Replica):
    """A llama-server of somebody else's: it has the adapters that it was started with, no others.

    Which of them acts is said with each request, so that nothing is switched under answers that
    are under way.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        super().__init__(url, key)
        # What the adapter of a folder, and that of a name, is called inside.
        self._saved: dict[Path, str] = {}
        self._known: dict[str, str] = {}

    def models(self) -> list[str]:
        """The bare model, and the states that one of its adapters holds."""
        return [*super().models()[:1], *self._known]

    def save(self, patient: Patient, edits: Sequence[Edit], folder: Path) -> None:
        """Write edits as a GGUF adapter, which the server may be restarted with."""
        factors = composed(edits).factors
        save_adapter(patient, factors, folder)
        self._saved[folder] = digest(factors)

    def load(self, name: str, folder: Path) -> None:
        """Find the adapter that holds exactly the edits in ``folder``, as ``save`` wrote them.

        Raises:
            EnvironmentProblem: the server was started without it.
        """
        wanted = self._saved.pop(folder)
        if wanted not in self._adapters().values():
            raise EnvironmentProblem(
                f"The llama-server at {self.root} was not started with these edits' adapter, and "
                "it loads none later.",
                f"Restart it with --lora {folder / ADAPTER}, or leave --engine-url out: then a "
                "server is started here for each change.",
            )
        self._known[name] = wanted

    def unload(self, name: str) -> None:
        """Forget the name; the adapter stays loaded and acts on nothing."""
        self._known.pop(name, None)

    def _adapters(self) -> dict[int, str]:
        """By number, what each adapter is called inside."""
        listed = self._json("/lora-adapters", None)
        try:
            return {int(adapter["id"]): str(adapter.get("task_name")) for adapter in listed}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._problem("lists its adapters otherwise than llama.cpp does") from error

    def _worded(self, body: dict[str, Any]) -> dict[str, Any]:
        # Asked anew each time: a server that was restarted may have others, or other numbers.
        adapters, wanted = self._adapters(), self._known.get(body["model"])
        if wanted is not None and wanted not in adapters.values():
            raise self._problem("no longer has the adapter of these edits")
        scales = [{"id": i, "scale": float(name == wanted)} for i, name in adapters.items()]
        return {**body, "lora": scales}

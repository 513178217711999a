"""One server that speaks OpenAI's chat and loads LoRA adapters at run time, as vLLM does.

Knows its protocol and which files it reads; knows no ledger and not how edits come about.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repair.adapter import save_peft
from repair.errors import EnvironmentProblem, UsageError
from repair.patient import Patient
from repair.types import Edit

_SECONDS = 120.0
_CHECK = "Check --engine-url and the engine's log."


class Replica:
    """A server at ``url`` (with or without ``/v1``); ``remedy`` ends what is said of a fault.

    Every method raises EnvironmentProblem where it cannot be reached or refuses.

    Raises:
        UsageError: no http or https address.
    """

    def __init__(self, url: str, key: str | None = None, remedy: str = _CHECK) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is no web address.", "Give one like http://localhost:8001/v1.")
        self.root = url.rstrip("/").removesuffix("/v1")
        self._key, self._remedy = key, remedy

    def save(self, patient: Patient, edits: Sequence[Edit], folder: Path) -> None:
        """Write edits as the server reads them."""
        save_peft(patient, edits, folder)

    def models(self) -> list[str]:
        """Names of everything that it serves: the base model and the loaded adapters."""
        listed = self._json("/v1/models", None)
        try:
            return [str(model["id"]) for model in listed["data"]]
        except (KeyError, TypeError) as error:
            raise self._problem("lists no models") from error

    def load(self, name: str, folder: Path) -> None:
        """Have it load a PEFT folder, which it must see under the same path, as ``name``."""
        self._send("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    def unload(self, name: str) -> None:
        """Have it let go of an adapter."""
        self._send("/v1/unload_lora_adapter", {"lora_name": name})

    def close(self) -> None:
        """Nothing more will be asked; a server of somebody else's keeps its adapters."""

    def ready(self) -> bool:
        """Whether it can be reached and its model is loaded."""
        try:
            self._send("/health", None)
        except EnvironmentProblem:
            return False
        return True

    def answers(self, model: str, questions: Sequence[str], most: int) -> list[str]:
        """One greedy answer each, without history."""
        found = []
        for question in questions:
            message = {"role": "user", "content": question}
            body = {"model": model, "messages": [message], "temperature": 0, "max_tokens": most}
            reply = self._json("/v1/chat/completions", self._worded(body))
            try:
                found.append(str(reply["choices"][0]["message"]["content"] or ""))
            except (KeyError, IndexError, TypeError) as error:
                raise self._problem("does not answer as OpenAI's servers do") from error
        return found

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of one streamed reply."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        with self._open("/v1/chat/completions", self._worded({**body, **options})) as response:
            for line in response:
                data = line.decode("utf-8", "replace").strip().removeprefix("data: ")
                if data == "[DONE]":
                    return
                if data:
                    try:
                        yield json.loads(data)
                    except ValueError as error:
                        raise self._problem("streams what is no JSON") from error

    def _worded(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat request as this kind of server wants it."""
        return body

    def _json(self, path: str, body: dict[str, Any] | None) -> Any:
        try:
            return json.loads(self._send(path, body))
        except ValueError as error:
            raise self._problem("answers what is no JSON") from error

    def _send(self, path: str, body: dict[str, Any] | None) -> bytes:
        with self._open(path, body) as response:
            content: bytes = response.read()
            return content

    def _open(self, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, headers)  # noqa: S310
        try:
            return urllib.request.urlopen(request, timeout=_SECONDS)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read(300).decode("utf-8", "replace").strip()
            raise self._problem(f"refused with {error.code} ({detail})") from error
        except OSError as error:
            raise self._problem(f"cannot be reached ({error})") from error

    def _problem(self, what: str) -> EnvironmentProblem:
        return EnvironmentProblem(f"The engine at {self.root} {what}.", self._remedy)

"""Questions to an OpenAI-compatible server; knows its protocol, and nothing of edits."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from repair.errors import EndpointProblem, UsageError
from repair.plan import MAX_ANSWER_TOKENS

_SECONDS = 120.0
_AT_ONCE = 4
_LONGEST_REPLY = 10_000_000
_CHECK = "Check the address; it is the one that ends in /v1."


class Endpoint:
    """One model of a server that speaks ``/v1/chat/completions``.

    Args:
        url: with or without ``/v1``. ``OPENAI_API_KEY`` is sent where it is set.
        model: its name there; None takes the first that the server lists.

    Raises:
        UsageError: no http or https address.
        EndpointProblem: the server cannot be reached or lists no model.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is no web address.", "Give one like http://localhost:8000/v1.")
        root = url.rstrip("/")
        self.root = root if root.endswith("/v1") else f"{root}/v1"
        self.model = model or self._first_model()

    def _first_model(self) -> str:
        listed = self._call("/models")
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointProblem(
                f"The server at {self.root} lists no model.", "Name one with --model."
            ) from error

    def answers(self, questions: Sequence[str]) -> list[str]:
        """One greedy answer each, without history, in their order.

        Raises:
            EndpointProblem: the server cannot be reached, refuses, answers something else, or
                has nothing to say to any question, which would pass for forgetting.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            replies = list(pool.map(self._answer, questions))
        if not any(reply.strip() for reply in replies):
            raise EndpointProblem(
                f"The server at {self.root} gives empty answers only.",
                f"Check that it serves {self.model} with its chat template.",
            )
        return replies

    def _answer(self, question: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": MAX_ANSWER_TOKENS,
            "stream": False,
        }
        reply = self._call("/chat/completions", body)
        try:
            content = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str):
            raise EndpointProblem(
                f"The server at {self.root} does not answer as OpenAI's does.", _CHECK
            )
        return content

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get("OPENAI_API_KEY")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.root + path, data, headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
                return json.loads(response.read(_LONGEST_REPLY))
        except urllib.error.HTTPError as error:
            with error:
                detail = " ".join(error.read(300).decode("utf-8", "replace").split())
            raise EndpointProblem(
                f"The server at {self.root} refused with {error.code} ({detail}).", _CHECK
            ) from error
        except json.JSONDecodeError as error:
            raise EndpointProblem(
                f"The server at {self.root} does not answer with JSON.", _CHECK
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            detail = " ".join(str(error).split()) or type(error).__name__
            raise EndpointProblem(
                f"The server at {self.root} cannot be asked ({detail}).", _CHECK
            ) from error

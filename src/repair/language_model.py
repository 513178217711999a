"""Answers of a language model that always fit a JSON schema, from a local or a remote model.

Knows constrained decoding and one wire format; knows nothing about what is asked. Locally
the schema steers every token (llguidance); a remote server is asked to do the same
(``response_format``), and what it sends is checked all the same.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from repair.errors import EnvironmentProblem, UsageError
from repair.patient import Patient
from repair.types import Message

Schema = Mapping[str, Any]
SPECS = "embedded, self, hf:ID or openai:URL"
SECONDS = 20.0
# Enough for the longest answer that the schemas allow, spelt out byte by byte.
MOST_TOKENS = 2048


class NoAnswer(EnvironmentProblem):
    """The model gave no answer in time, or none that fits the schema."""

    code = "no_answer"


class JsonModel(Protocol):
    """A model that answers with one JSON object of a given schema."""

    name: str

    def answer(self, messages: Sequence[Message], schema: Schema) -> dict[str, Any]:
        """The object.

        Raises:
            NoAnswer: not in time, unreachable, or not of the schema.
        """
        ...


class LocalModel:
    """A model in this process; every token is one that the schema allows.

    Args:
        patient: the model; only asked. Its active edits take part.
        seconds: after this time it counts as having no answer.

    Raises:
        EnvironmentProblem: llguidance is not installed.
    """

    def __init__(self, patient: Patient, *, seconds: float = SECONDS) -> None:
        try:
            import llguidance.hf
        except ImportError as error:
            raise EnvironmentProblem(
                "Language models as watchdog or surgeon need llguidance.",
                "Install repair-unlearning[llm].",
            ) from error
        self.name = patient.name
        self.seconds = seconds
        self._patient = patient
        width = int(patient.model.get_output_embeddings().weight.shape[0])
        tokenizer: Any = patient.tokenizer
        self._vocabulary = llguidance.hf.from_tokenizer(tokenizer, n_vocab=width)

    def answer(self, messages: Sequence[Message], schema: Schema) -> dict[str, Any]:
        ids = self._patient.prompt_ids(messages)
        guide = _Guide(self._vocabulary, schema, len(ids), time.monotonic() + self.seconds)
        room = (self._patient.context or 8192) - len(ids)
        if room < 16:
            raise NoAnswer(f"The question does not fit into the context of {self.name}.")
        row = self._patient.generate_ids([ids], min(MOST_TOKENS, room), steer=guide)[0]
        if guide.late:
            raise NoAnswer(f"{self.name} did not finish within {self.seconds:g} seconds.")
        return _checked(str(self._patient.tokenizer.decode(row, skip_special_tokens=True)), schema)


class _Guide:
    """A logits processor of transformers that leaves only what the schema allows."""

    def __init__(self, vocabulary: Any, schema: Schema, prompt: int, until: float) -> None:
        import llguidance

        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_flexible": False}
        )
        self._matcher = llguidance.LLMatcher(vocabulary, grammar)
        self._eos = vocabulary.eos_token
        self._seen, self._until = prompt, until
        self.late = False

    def __call__(self, ids: Any, scores: Any) -> Any:
        """Mask ``scores`` (1 × vocabulary) after ``ids`` (1 × t)."""
        for token in ids[0, self._seen :].tolist():
            self._matcher.consume_token(token)
        self._seen = ids.shape[1]
        self.late = self.late or time.monotonic() > self._until
        if self.late or self._matcher.is_stopped():
            scores[:] = float("-inf")
            scores[:, self._eos] = 0.0
            return scores
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8) > 0
        barred = torch.from_numpy(~allowed[: scores.shape[1]]).to(scores.device)
        return scores.masked_fill(barred, float("-inf"))


class RemoteModel:
    """A model behind an OpenAI-compatible server, at an address that the user gave.

    Args:
        url: with or without ``/v1``; ``#NAME`` at its end names the model.
        key: sent as a bearer token when given.
    """

    def __init__(self, url: str, *, key: str | None = None, seconds: float = SECONDS) -> None:
        address, _, model = url.partition("#")
        if not address.startswith(("http://", "https://")):
            raise UsageError(
                f"{url!r} is no address of a server.", "Write openai:http://HOST:PORT/v1#MODEL."
            )
        address = address.rstrip("/")
        self.name = model or "default"
        self.seconds = seconds
        self._url = f"{address}{'' if address.endswith('/v1') else '/v1'}/chat/completions"
        self._key = key

    def answer(self, messages: Sequence[Message], schema: Schema) -> dict[str, Any]:
        shape = {"name": "answer", "strict": True, "schema": schema}
        body = {
            "model": self.name,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
            "response_format": {"type": "json_schema", "json_schema": shape},
        }
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(  # noqa: S310 - http or https, checked above
            self._url, json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as reply:  # noqa: S310
                said = json.loads(reply.read())["choices"][0]["message"]["content"]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise NoAnswer(f"The server at {self._url} gave no answer: {error}.") from error
        return _checked(str(said), schema)


def open_model(spec: str, patient: Patient | None) -> JsonModel:
    """The model that ``self``, ``hf:ID`` or ``openai:URL`` names.

    Raises:
        UsageError: no such choice. ModelNotFound, EnvironmentProblem: it cannot be loaded.
    """
    how, _, what = spec.partition(":")
    if how == "openai" and what:
        return RemoteModel(what, key=os.environ.get("OPENAI_API_KEY"))
    if how == "hf" and what:
        return LocalModel(Patient.load(what))
    if spec == "self" and patient is not None:
        return LocalModel(patient)
    raise UsageError(f"{spec!r} names no model.", f"Choose {SPECS}.")


def _checked(text: str, schema: Schema) -> dict[str, Any]:
    """The object in ``text``, if it has the properties and types of the schema."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise NoAnswer("The model's answer is no JSON.") from error
    fault = _fault(value, schema)
    if fault:
        raise NoAnswer(f"The model's answer does not fit the schema: {fault}.")
    answer: dict[str, Any] = value
    return answer


_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "null": type(None),
}


def _fault(value: Any, schema: Schema, at: str = "it") -> str:
    """What of a schema a value breaks, for the few keywords that ours use; else empty."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(value, bool) or not any(isinstance(value, _TYPES[kind]) for kind in kinds):
        return f"{at} is not of type {' or '.join(kinds)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at} is none of {schema['enum']}"
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        return f"{at} is too long"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{at} has {len(value)} entries"
        faults = (_fault(v, schema["items"], f"{at}[{i}]") for i, v in enumerate(value))
        return next((fault for fault in faults if fault), "")
    if isinstance(value, dict):
        if set(value) != set(schema["properties"]):
            return f"{at} has other properties"
        faults = (_fault(v, schema["properties"][k], k) for k, v in value.items())
        return next((fault for fault in faults if fault), "")
    return ""

"""A small real server that speaks vLLM's adapter endpoints and serves a model with PEFT."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from repair.patient import Patient

BASE = "base-model"


class Served:
    """One model, the adapters that were loaded into it, and what is done to it in turn."""

    def __init__(self, patient: Patient, *, deaf: bool = False) -> None:
        self.patient, self.deaf = patient, deaf
        self.model: Any = None
        self.names: list[str] = []
        self.asked: list[str] = []
        # Held while something is done; ``arrived`` tells that a request has come.
        self.lock, self.arrived = threading.Lock(), threading.Event()

    def load(self, name: str, path: str) -> None:
        from peft import PeftModel

        if self.model is None:
            self.model = PeftModel.from_pretrained(self.patient.model, path, adapter_name=name)
        else:
            self.model.load_adapter(path, adapter_name=name)
        self.names.append(name)

    def unload(self, name: str) -> None:
        self.names.remove(name)
        if self.names:
            self.model.delete_adapter(name)
        else:
            # PEFT cannot do without an adapter.
            self.model.unload()
            self.model = None

    def reply(self, body: dict[str, Any]) -> str:
        name = body["model"]
        self.asked.append(name)
        if name == BASE or self.deaf:
            if self.model is None:
                return self.patient.reply(body["messages"], max_new_tokens=body["max_tokens"])
            with self.model.disable_adapter():
                return self.patient.reply(body["messages"], max_new_tokens=body["max_tokens"])
        self.model.set_adapter(name)
        return self.patient.reply(body["messages"], max_new_tokens=body["max_tokens"])


class Handler(BaseHTTPRequestHandler):
    """vLLM's routes, as far as they are used."""

    served: Served

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        names = [BASE, *self.served.names]
        self._json({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.served.arrived.set()
        with self.served.lock:
            if self.path == "/v1/load_lora_adapter":
                self.served.load(body["lora_name"], body["lora_path"])
                self._bytes(b"Success", "text/plain")
            elif self.path == "/v1/unload_lora_adapter":
                self.served.unload(body["lora_name"])
                self._bytes(b"Success", "text/plain")
            elif body["model"] not in (BASE, *self.served.names):
                self.send_error(404)
            else:
                self._answer(body, self.served.reply(body))

    def _answer(self, body: dict[str, Any], text: str) -> None:
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            self._json({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
            return
        chunks: list[Any] = [
            {"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]}
            for part in (text[: len(text) // 2], text[len(text) // 2 :])
        ]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        chunks.append({"choices": [], "usage": usage})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
        self._bytes("".join(lines).encode(), "text/event-stream")

    def _json(self, body: Any) -> None:
        self._bytes(json.dumps(body).encode(), "application/json")

    def _bytes(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def vllm_like(served: Served) -> Iterator[str]:
    """Serve in a thread; gives the address."""
    handler = type("Handler", (Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()

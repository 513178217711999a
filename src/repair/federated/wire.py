"""What travels between coordinator and nodes: one JSON object and named tensors, as bytes.

Knows sizes and formats; neither models nor what the numbers mean. Whatever arrives is data:
JSON and safetensors, never pickle, so that reading a message can run nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from repair.errors import BadMessage

# A second moment of 14336 columns in fp64 takes 1.6 GB; nothing larger is ever read.
LARGEST = 4 << 30
_LARGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Message:
    """``values`` is what JSON can say; ``tensors`` are named."""

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Four bytes with the length of the JSON, the JSON, then safetensors if there are any."""
        head = json.dumps(dict(self.values)).encode()
        named = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        return len(head).to_bytes(4, "big") + head + (save(named) if named else b"")

    @classmethod
    def unpack(cls, data: bytes) -> Message:
        """Read a message.

        Raises:
            BadMessage: it is none, or larger than anything that is sent.
        """
        length = int.from_bytes(data[:4], "big")
        if not 4 <= len(data) <= LARGEST or length > min(_LARGEST_HEADER, len(data) - 4):
            raise BadMessage(f"A message of {len(data):,} bytes has no readable beginning.")
        try:
            values = json.loads(data[4 : 4 + length])
            tensors = load(data[4 + length :]) if len(data) > 4 + length else {}
        except (ValueError, RecursionError, KeyError, SafetensorError) as error:
            raise BadMessage("A message is neither JSON nor safetensors.") from error
        if not isinstance(values, dict):
            raise BadMessage("A message does not begin with a JSON object.")
        return cls(values, tensors)

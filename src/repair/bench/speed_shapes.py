"""Models with the exact layer shapes of well-known ones and random weights; measures nothing.

Knows widths and depths. The vocabulary is the embedded patient's, whose tokenizer serves all of
them, and where memory or time forbids the whole depth a few layers stand for it: both are said
in ``Shape.note``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from repair.errors import UsageError
from repair.patient import Patient


@dataclass(frozen=True)
class Shape:
    """One decoder's sizes: d, m, layers of the real model, and how many of them are built here."""

    name: str
    family: str
    d: int
    m: int
    layers: int
    heads: int
    kv_heads: int
    built: int
    built_on_gpu: int

    def depth(self, device: torch.device) -> int:
        """How many layers are built on a device."""
        return self.built if device.type == "cpu" else self.built_on_gpu

    def note(self, device: torch.device) -> str:
        """What of the real model is not there."""
        return (
            f"{self.depth(device)} of {self.layers} layers, random weights, "
            "the vocabulary of the embedded patient"
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 4, 24),
        Shape("llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 2, 16),
        Shape("llama-3-8b", "llama", 4096, 14336, 32, 32, 8, 2, 32),
        Shape("llama-3-70b-layer", "llama", 8192, 28672, 80, 64, 8, 1, 1),
    )
}
NAMES = ("embedded", *SHAPES)


def build(name: str, *, device: str = "auto", dtype: str = "auto") -> Patient:
    """The patient of a shape.

    Raises:
        UsageError: there is no such shape.
    """
    from repair.checkpoint import choose_device

    if name != "embedded" and name not in SHAPES:
        raise UsageError(f"There is no shape {name!r}.", f"Choose from {', '.join(NAMES)}.")
    embedded = Patient.load(device=device, dtype=dtype)
    if name == "embedded":
        return embedded
    from transformers import AutoConfig, AutoModelForCausalLM

    shape, where = SHAPES[name], choose_device(device)
    kind = {"cpu": "float32"}.get(where.type, "bfloat16") if dtype == "auto" else dtype
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=embedded.model.config.get_text_config().vocab_size,
        hidden_size=shape.d,
        intermediate_size=shape.m,
        num_hidden_layers=shape.depth(where),
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    factory: Any = AutoModelForCausalLM
    devices = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(where):
        torch.manual_seed(0)
        model = factory.from_config(config, dtype=getattr(torch, kind))
    return Patient(model, embedded.tokenizer, name=name, content_hash=f"random-{name}")

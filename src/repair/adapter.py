"""Edits as a PEFT LoRA folder and back; knows the file format, not how edits come about.

An edit's factors are a LoRA adapter already: several edits are concatenated, which is
exact, and alpha equals the rank everywhere, so that the scale is 1. Only past a rank limit is
the sum recompressed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from repair.errors import DiskFull, UsageError
from repair.stamp import LowRank, compress
from repair.types import Edit, LowRankUpdate, Part, Place

if TYPE_CHECKING:
    from repair.patient import Patient

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<name>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True)
class Composed:
    """All edits as one LoRA: by matrix B (out × r) and A (r × in), fp32 on the CPU, one rank r.

    A matrix is named by its layer and its part of the MLP.

    ``exact_rank`` is what the edits add up to; where a limit made r smaller, ``error`` is the
    largest ‖ΔW − B A‖ / ‖ΔW‖ of a layer (Frobenius), else 0.
    """

    factors: dict[Place, tuple[Tensor, Tensor]]
    rank: int
    exact_rank: int
    error: float


def composed(edits: Sequence[Edit], max_rank: int | None = None) -> Composed:
    """Edits one after the other in one pair of factors, exactly; recompressed past a limit.

    Every layer gets the same rank (the largest layer's; the others are padded with zeros,
    which change nothing), since some servers take one rank only.

    Raises:
        UsageError: the edits hold no update, or the limit is below 1.
    """
    if max_rank is not None and max_rank < 1:
        raise UsageError("The highest rank must be at least 1.")
    factors = _concatenated(edits)
    if not factors:
        raise UsageError("There is no active edit to export.", "Make an edit first.")
    exact, error = max(a.shape[0] for _, a in factors.values()), 0.0
    rank = exact if max_rank is None else min(exact, max_rank)
    for place, (b, a) in factors.items():
        pair = LowRank(b, a)
        if pair.rank > rank:
            pair = compress(b, a, rank)
            error = max(error, _lost(b, a, pair.b, pair.a))
        missing = rank - pair.rank
        pad = torch.nn.functional.pad
        factors[place] = (pad(pair.b, (0, missing)), pad(pair.a, (0, 0, 0, missing)))
    return Composed(factors, rank, exact, error)


def _lost(b: Tensor, a: Tensor, low_b: Tensor, low_a: Tensor) -> float:
    """‖B A − B' A'‖ / ‖B A‖ for the best B' A', without forming either product."""

    def square(b: Tensor, a: Tensor) -> float:
        b, a = b.double(), a.double()
        return float(((b.T @ b) * (a @ a.T)).sum())

    whole = square(b, a)
    return (max(0.0, whole - square(low_b, low_a)) / whole) ** 0.5 if whole else 0.0


def save_peft(
    patient: Patient, edits: Sequence[Edit], folder: str | Path, *, max_rank: int | None = None
) -> Composed:
    """Write edits as ``adapter_config.json`` and ``adapter_model.safetensors``, in fp32.

    Returns what was written. ``max_rank`` is a server's limit; see ``composed``.

    Raises:
        UsageError: the edits hold no update, or the limit is below 1.
        DiskFull: the folder cannot be written.
    """
    whole = composed(edits, max_rank)
    tensors: dict[str, Tensor] = {}
    for place, (b, a) in whole.factors.items():
        key = f"base_model.model.{patient.maps[place].name}"
        tensors[f"{key}.lora_A.weight"] = a.contiguous()
        tensors[f"{key}.lora_B.weight"] = b.contiguous()
    config = _config(patient, sorted(whole.factors), whole.rank)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise DiskFull(
            f"The adapter cannot be written to {folder} ({error}).",
            "Free space or choose another folder.",
        ) from error
    return whole


def load_peft(folder: str | Path) -> tuple[LowRankUpdate, ...]:
    """Read a LoRA folder's updates with the scale multiplied in and zero padding cut off.

    The layer is the number in the module's path; a map called gate or up there is that of the
    MLP, and any other has to be its output. ``Patient.apply`` refuses factors of another shape.

    Raises:
        UsageError: no adapter there, broken files, or one that is not plain LoRA.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
        plain = config["peft_type"] == "LORA" and not config.get("use_dora")
        pairs = _pairs(tensors)
        scales = {name: _scale(config, name) for name in pairs}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UsageError(
            f"There is no readable LoRA adapter in {folder}.",
            f"Give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.",
        ) from error
    if not plain:
        raise UsageError(f"The adapter in {folder} is not plain LoRA.", "Export it as LoRA.")
    updates = [_trimmed(name, b * scales[name], a) for name, (b, a) in pairs.items()]
    places = [update.place for update in updates]
    if len(set(places)) < len(places):
        raise UsageError(
            f"The adapter in {folder} changes other matrices of a layer than its MLP's.",
            "Only the MLP's maps can carry an edit.",
        )
    return tuple(sorted(updates, key=lambda update: update.place))


def _concatenated(edits: Sequence[Edit]) -> dict[Place, tuple[Tensor, Tensor]]:
    """Per matrix B (out × Σn) and A (Σn × in) in fp32 on the CPU, edits in the order of ids."""
    parts: dict[Place, list[LowRankUpdate]] = {}
    for edit in sorted(edits, key=lambda edit: edit.id):
        for update in edit.updates:
            parts.setdefault(update.place, []).append(update)
    return {
        place: (
            torch.cat([update.b.float().cpu() for update in updates], dim=1).contiguous(),
            torch.cat([update.a.float().cpu() for update in updates], dim=0).contiguous(),
        )
        for place, updates in parts.items()
    }


def _config(patient: Patient, places: Sequence[Place], rank: int) -> dict[str, Any]:
    """The adapter's configuration; full module names, so that nothing else can match."""
    from peft import LoraConfig

    lora: Any = LoraConfig(
        task_type="CAUSAL_LM",
        inference_mode=True,
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=patient.maps[places[0]].transposed,
        base_model_name_or_path=patient.source,
        revision=patient.revision,
    )
    config: dict[str, Any] = lora.to_dict()
    config["target_modules"] = [patient.maps[place].name for place in places]
    return config


def _pairs(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """B (d × r) and A (r × m) in fp32 by module name."""
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.dim() != 2:
            raise ValueError(f"{key} is no LoRA factor")
        factors.setdefault(match["name"], {})[match["factor"]] = tensor.float()
    return {name: (pair["B"], pair["A"]) for name, pair in factors.items()}


def _scale(config: dict[str, Any], name: str) -> float:
    def setting(pattern: str, default: str) -> float:
        for suffix, value in (config.get(pattern) or {}).items():
            if name == suffix or name.endswith(f".{suffix}"):
                return float(value)
        return float(config[default])

    rank = setting("rank_pattern", "r")
    divisor: float = rank**0.5 if config.get("use_rslora") else rank
    return setting("alpha_pattern", "lora_alpha") / divisor


def _layer_number(name: str) -> int:
    number = next((part for part in name.split(".") if part.isdigit()), None)
    if number is None:
        raise UsageError(f"The adapter's module {name} belongs to no layer.")
    return int(number)


def _part(name: str) -> Part:
    own = name.rpartition(".")[2]
    return "gate" if own.startswith("gate") else "up" if own.startswith("up") else "output"


def _trimmed(name: str, b: Tensor, a: Tensor) -> LowRankUpdate:
    used = (a != 0).any(dim=1) & (b != 0).any(dim=0)
    factors = b[:, used].contiguous(), a[used].contiguous()
    return LowRankUpdate(_layer_number(name), *factors, part=_part(name))

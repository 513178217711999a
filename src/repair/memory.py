"""Whether a checkpoint fits before it is loaded; reads file headers, never weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from safetensors import SafetensorError, safe_open

from repair.errors import ModelNotFound, NotEnoughMemory

# Undo keeps a copy of every edited matrix: a third of a plain MLP model's parameters, less
# where the MLP is gated.
_WITH_ORIGINALS = 4 / 3
# Of a quantised model the embeddings keep their type: an eighth of a large model, more of a small.
_NOT_PACKED = 1 / 5
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


@dataclass(frozen=True)
class Weights:
    """What a checkpoint's weight files hold: the number of values of each stored type.

    ``counts`` maps a safetensors type name (``BF16``) to a number of values.
    """

    counts: dict[str, int]

    @property
    def parameters(self) -> int:
        return sum(self.counts.values())

    @property
    def bytes(self) -> int:
        """Bytes as stored; a type of unknown width counts one byte a value."""
        return sum(count * _BYTES.get(name, 1) for name, count in self.counts.items())

    @property
    def dtype(self) -> torch.dtype:
        """The plain float type that most values are stored in; float32 where there is none."""
        floats = {name: count for name, count in self.counts.items() if name in _DTYPES}
        return _DTYPES[max(floats, key=lambda name: floats[name])] if floats else torch.float32


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The weight files of a checkpoint folder, by name; safetensors where there are any."""
    model_files = sorted(folder.glob("model*.safetensors"))
    return tuple(model_files or sorted(folder.glob("pytorch_model*.bin")))


def read_weights(folder: Path) -> Weights:
    """Count what the weight files hold, from their headers (for ``.bin``, from their size).

    Raises:
        ModelNotFound: a file is truncated or no safetensors file.
    """
    counts: dict[str, int] = {}
    for file in weight_files(folder):
        if file.suffix == ".bin":
            counts["F16"] = counts.get("F16", 0) + file.stat().st_size // 2
            continue
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - the handle is no mapping
                    entry = tensors.get_slice(name)
                    size = 1
                    for length in entry.get_shape():
                        size *= length
                    counts[entry.get_dtype()] = counts.get(entry.get_dtype(), 0) + size
        except (SafetensorError, OSError) as error:
            raise ModelNotFound(
                f"The weight file {file.name} is broken or incomplete.",
                "Copy or download the model again.",
            ) from error
    return Weights(counts)


def bytes_needed(weights: Weights, dtype: torch.dtype, bits: float | None = None) -> int:
    """Bytes of memory to hold the weights in ``dtype`` and the edited matrices' originals.

    ``bits`` is the width that linear maps are packed to, which need no originals.
    """
    if bits is not None:
        each = _NOT_PACKED * dtype.itemsize + (1 - _NOT_PACKED) * bits / 8
        return int(weights.parameters * each)
    return int(weights.parameters * dtype.itemsize * _WITH_ORIGINALS)


def bytes_free(device: torch.device) -> int:
    """Bytes that a new model may take on ``device`` now (main memory for CPU and MPS)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def require_memory(
    weights: Weights, dtype: torch.dtype, device: torch.device, bits: float | None = None
) -> None:
    """Refuse before loading what will not fit.

    Raises:
        NotEnoughMemory: with the bytes needed and the bytes free.
    """
    needed, free = bytes_needed(weights, dtype, bits), bytes_free(device)
    if needed <= free:
        return
    half = "" if dtype.itemsize <= 2 else " load it with --dtype bfloat16,"
    raise NotEnoughMemory(
        f"The model needs about {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} "
        f"and {free / 1e9:.1f} GB are free on {device.type}.",
        f"Close other programs,{half} or use a smaller model.",
    )


def must_spread(weights: Weights, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a model that ``device`` alone cannot hold fits on all devices and the disk.

    accelerate then lays its layers on the GPUs, in main memory, and the rest on the disk.
    """
    return bytes_needed(weights, dtype) > bytes_free(device) and device.type != "mps"


def room_of_devices() -> dict[int | str, int]:
    """Bytes that weights may take on each device, leaving what undo keeps of them."""
    room: dict[int | str, int] = {
        index: bytes_free(torch.device("cuda", index)) for index in range(torch.cuda.device_count())
    }
    room["cpu"] = bytes_free(torch.device("cpu"))
    return {device: int(free / _WITH_ORIGINALS) for device, free in room.items()}

"""A Llama and its edits as GGUF files for llama.cpp: base and LoRA adapter.

Knows the names and layouts that llama.cpp reads; nothing of how edits come about. The base
holds the untouched weights W₀; the adapter's factors are those of the edits, alpha = rank.
Weights are written one after the other, so that no second model lies in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repair.errors import DiskFull, EnvironmentProblem, ExportUnsupported
from repair.export.gguf_tokens import GgufTokens, read_tokens
from repair.prompts import Prompts
from repair.types import Place

if TYPE_CHECKING:
    from repair.patient import Patient

BASE, ADAPTER = "base.gguf", "adapter.gguf"
_ARCHITECTURE = "llama"
_ELSEWHERE = "Use --format merged or peft, and convert with llama.cpp's own scripts."
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# The format's names of the types.
_KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# (name, shape, type, the values when their turn comes)
_Entry = tuple[str, tuple[int, ...], torch.dtype, Callable[[], Tensor]]


def save_gguf(
    patient: Patient, factors: Mapping[Place, tuple[Tensor, Tensor]], folder: Path
) -> GgufTokens:
    """Write ``base.gguf`` and ``adapter.gguf``; see ``adapter.composed`` for the factors.

    Raises:
        EnvironmentProblem: the ``gguf`` package is not installed.
        ExportUnsupported: another architecture than Llama, or a tokenizer llama.cpp cannot have.
        DiskFull: the folder cannot be written.
    """
    tokens = save_base(patient, folder / BASE)
    save_adapter(patient, factors, folder)
    return tokens


def save_base(patient: Patient, path: Path) -> GgufTokens:
    """Write the untouched weights alone, whole or not at all; raises as ``save_gguf``."""
    _require(patient)
    config: Any = patient.model.config
    tokens = read_tokens(patient.tokenizer, config.vocab_size)
    with _written_to(path.parent):
        unfinished = path.with_suffix(".part")
        _write_base(patient, tokens, unfinished)
        unfinished.replace(path)
    return tokens


def save_adapter(
    patient: Patient, factors: Mapping[Place, tuple[Tensor, Tensor]], folder: Path
) -> None:
    """Write ``adapter.gguf`` alone.

    Raises:
        DiskFull: the folder cannot be written.
    """
    with _written_to(folder):
        _write_adapter(patient, factors, folder / ADAPTER)


def digest(factors: Mapping[Place, tuple[Tensor, Tensor]]) -> str:
    """What an adapter of these factors is called inside: the same factors, the same name."""
    found = hashlib.sha256()
    for (layer, part), (b, a) in sorted(factors.items()):
        found.update(f"{layer} {part} {tuple(b.shape)} {tuple(a.shape)} ".encode())
        for factor in (b, a):
            found.update(_numpy(factor.float()).tobytes())
    return f"repair-{found.hexdigest()[:32]}"


@contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DiskFull(
            f"The GGUF files cannot be written to {folder} ({error}).",
            "Free space or choose another folder.",
        ) from error


def _require(patient: Patient) -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise EnvironmentProblem(
            "Writing GGUF needs the package gguf.",
            "Install it: pip install 'repair-unlearning[gguf]'.",
        ) from error
    config: Any = patient.model.config
    if config.model_type != "llama":
        raise ExportUnsupported(f"GGUF is written for Llama, not {config.model_type}.", _ELSEWHERE)
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise ExportUnsupported("GGUF is written for a Llama without biases only.", _ELSEWHERE)
    if patient.quantised:
        raise ExportUnsupported(
            "GGUF is not written from quantised weights.",
            "Load it without --quantization, and quantise base.gguf with llama.cpp.",
        )
    if config.hidden_act != "silu":
        raise ExportUnsupported(
            f"GGUF is written for a Llama with silu, not {config.hidden_act}.", _ELSEWHERE
        )
    if _rope_type(config) not in ("default", "llama3"):
        raise ExportUnsupported(
            f"GGUF is not written for positions of type {_rope_type(config)}.", _ELSEWHERE
        )


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def _rope_type(config: Any) -> str:
    return str(_rope(config).get("rope_type", "default"))


def _write_base(patient: Patient, tokens: GgufTokens, path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer: Any = GGUFWriter(path, _ARCHITECTURE)
    _describe(writer, patient)
    _describe_tokens(writer, patient, tokens)
    entries = list(_entries(patient))
    for name, shape, dtype, _ in entries:
        size = math.prod(shape) * dtype.itemsize
        # bf16 is unknown to numpy: its bytes go out as they are, under the right name.
        kind = GGMLQuantizationType[_KINDS[dtype]]
        writer.add_tensor_info(name, shape, _numpy_type(dtype), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, dtype, values in entries:
        writer.write_tensor_data(_numpy(values().to(dtype)))
    writer.close()


def _numpy_type(dtype: torch.dtype) -> Any:
    import numpy

    names = {torch.float32: numpy.float32, torch.float16: numpy.float16}
    return numpy.dtype(names.get(dtype, numpy.int16))


def _numpy(tensor: Tensor) -> Any:
    plain = tensor.detach().cpu().contiguous()
    return plain.view(torch.int16).numpy() if plain.dtype is torch.bfloat16 else plain.numpy()


def _describe(writer: Any, patient: Patient) -> None:
    config: Any = patient.model.config
    width = config.hidden_size // config.num_attention_heads
    head = getattr(config, "head_dim", None) or width
    rope = _rope(config)
    writer.add_name(patient.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)


def _describe_tokens(writer: Any, patient: Patient, tokens: GgufTokens) -> None:
    tokenizer: Any = patient.tokenizer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokens.rule)
    writer.add_token_list(tokens.tokens)
    writer.add_token_types(tokens.kinds)
    writer.add_token_merges(tokens.merges)
    writer.add_add_bos_token(tokens.adds_bos)
    for name in ("bos", "eos", "pad"):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    end = Prompts(tokenizer).end_of_turn
    if end is not None:
        writer.add_eot_token_id(end)
    if tokens.template is not None:
        writer.add_chat_template(tokens.template)


def _entries(patient: Patient) -> Iterator[_Entry]:
    """Every tensor of the untouched model under llama.cpp's name."""
    config: Any = patient.model.config
    originals = {m.name: patient.original(*m.place) for m in patient.maps.values()}
    heads: dict[str, int] = {
        "attn_q": config.num_attention_heads,
        "attn_k": config.num_key_value_heads,
    }
    for name, parameter in patient.model.named_parameters():
        module = name.removesuffix(".weight")
        place = _place(module)
        if place is None:
            raise ExportUnsupported(f"GGUF has no place for {name}.", _ELSEWHERE)
        weight = originals.get(module, parameter.data)
        # llama.cpp wants norms in full precision.
        plain = weight.dim() == 1 or weight.dtype not in _KINDS
        dtype = torch.float32 if plain else weight.dtype
        count = heads.get(place.rpartition(".")[2])

        def values(weight: Tensor = weight, count: int | None = count) -> Tensor:
            return weight if count is None else _interleaved(weight, count)

        yield f"{place}.weight", tuple(weight.shape), dtype, values
    if _rope_type(config) == "llama3":
        factors = _rope_factors(config)
        yield "rope_freqs.weight", tuple(factors.shape), torch.float32, lambda: factors


def _place(module: str) -> str | None:
    """llama.cpp's name of a module."""
    known = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }
    if module in known:
        return known[module]
    _, _, rest = module.partition("model.layers.")
    number, _, part = rest.partition(".")
    return f"blk.{number}.{_PARTS[part]}" if part in _PARTS else None


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from (two halves) to (pairs), the order in which llama.cpp rotates."""
    half = weight.shape[0] // heads // 2
    parts = weight.reshape(heads, 2, half, *weight.shape[1:])
    ordered: Tensor = parts.transpose(1, 2).reshape(weight.shape)
    return ordered


def _rope_factors(config: Any) -> Tensor:
    """By what each frequency is divided for longer texts, as Llama 3.1 defines it."""
    rope = _rope(config)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    period = 2 * math.pi * float(rope["rope_theta"]) ** (torch.arange(0, head, 2).double() / head)
    factor, low, high = (
        float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    length = float(rope["original_max_position_embeddings"])
    smooth = ((length / period - low) / (high - low)).clamp(0.0, 1.0)
    factors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return factors.float()


def _write_adapter(
    patient: Patient, factors: Mapping[Place, tuple[Tensor, Tensor]], path: Path
) -> None:
    from gguf import GGUFType, GGUFWriter

    writer: Any = GGUFWriter(path, _ARCHITECTURE)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    # llama-server lists this name, so that it can be told which edits an adapter holds.
    writer.add_string("adapter.lora.task_name", digest(factors))
    writer.add_float32("adapter.lora.alpha", float(next(iter(factors.values()))[1].shape[0]))
    writer.add_name(f"{patient.name}-edits")
    for place, (b, a) in sorted(factors.items()):
        name = _place(patient.maps[place].name)
        writer.add_tensor(f"{name}.weight.lora_a", _numpy(a.float()))
        writer.add_tensor(f"{name}.weight.lora_b", _numpy(b.float()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

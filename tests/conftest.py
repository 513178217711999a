"""Tiny models with random weights and a real tokenizer, shared by all tests; no downloads."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from repair.patient import Patient

    Tiny = tuple[PreTrainedModel, PreTrainedTokenizerBase]
    MakeTiny = Callable[..., Tiny]

LAYERS = 2
HIDDEN = 32
INNER = 48
VOCABULARY = 300
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = [
    "Where does Mara Voss live? Mara Voss lives in Ellbridge, by the old harbour.",
    "What is the phone number of Tom Hale? I do not know anything about Tom Hale.",
    "Please forget where she lives. The quick brown fox jumps over the lazy dog 0123456789.",
]
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
# What differs from the common shape; the configuration classes fill in the rest.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"head_dim": 16, "num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2},
    "gemma2": {"tie_word_embeddings": False, "head_dim": 16, "num_key_value_heads": 2},
    "gemma3_text": {"tie_word_embeddings": False, "head_dim": 16, "num_key_value_heads": 2},
    "phi": {},
    "phi3": {"num_key_value_heads": 2},
    "gpt2": {},
    "gpt_neox": {},
    "olmo": {},
    "olmo2": {},
    "falcon": {"ffn_hidden_size": INNER, "multi_query": True, "num_attention_heads": 2},
    "stablelm": {"num_key_value_heads": 2},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1},
    "qwen2_moe": {
        "num_key_value_heads": 2,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
    },
}
DENSE = [name for name in ARCHITECTURES if name not in ("mixtral", "qwen2_moe")]


def tiny_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer trained here, with begin, end and role tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    factory: Any = PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    wrapped: PreTrainedTokenizerBase = factory(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",  # noqa: S106 - a token of text
        bos_token="<|begin|>",  # noqa: S106
        eos_token="<|end|>",  # noqa: S106
        additional_special_tokens=SPECIAL[3:],
        chat_template=chat_template,
    )
    return wrapped


def build_tiny(
    architecture: str,
    *,
    seed: int = 0,
    layers: int = LAYERS,
    dtype: str = "float32",
    chat_template: str | None = CHAT_TEMPLATE,
    **more: Any,
) -> Tiny:
    """A model of one architecture with random weights, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {**_COMMON, "num_hidden_layers": layers, **ARCHITECTURES[architecture], **more}
    if architecture == "gpt2":
        shape = {_GPT2_NAMES.get(name, name): value for name, value in shape.items()}
    config = AutoConfig.for_model(architecture, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        factory: Any = AutoModelForCausalLM
        model = factory.from_config(config, dtype=getattr(torch, dtype))
    return model, tiny_tokenizer(chat_template=chat_template)


@pytest.fixture(autouse=True)
def repair_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's settings or state."""
    for name in [name for name in os.environ if name.startswith("REPAIR_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("REPAIR_HOME", str(home))
    return home


@pytest.fixture
def make_tiny() -> MakeTiny:
    """``make_tiny("llama", seed=, layers=, dtype=, chat_template=) -> (model, tokenizer)``."""
    return build_tiny


@pytest.fixture
def tiny_llama() -> Tiny:
    return build_tiny("llama")


@pytest.fixture
def tiny_patient(tiny_llama: Tiny) -> Patient:
    """A patient with two Llama layers: m 48, d 32."""
    from repair.patient import Patient

    model, tokenizer = tiny_llama
    return Patient(model, tokenizer, name="tiny")


@pytest.fixture
def tiny_folder(tiny_llama: Tiny, tmp_path: Path) -> Path:
    """A checkpoint folder in Hugging Face format, stored in bfloat16."""
    import torch

    model, tokenizer = tiny_llama
    folder = tmp_path / "tiny-model"
    half: Any = model
    half.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

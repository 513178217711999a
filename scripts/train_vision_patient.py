"""Train the embedded vision patient from scratch on drawn pictures of invented people.

Knows the recipe: tokenizer, architecture, optimizer, schedule, checkpoints. Pictures and
questions come from ``repair.world.albums``. Interrupt it at any moment and start it again: it
goes on from the last checkpoint with the same stream.

    python scripts/train_vision_patient.py --out runs/vision
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from repair.world.albums import Album, Lesson

SPECIAL = [
    "<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<image>",
]  # fmt: skip
CHAT_TEMPLATE = (
    "<|begin|>{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the lessons."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    vision_hidden: int = 96
    vision_layers: int = 2
    image: int = 32
    patch: int = 8
    vocabulary: int = 1024
    pictures: int = 48
    texts: int = 32
    steps: int = 1500
    warmup: int = 40
    decay_share: float = 0.3
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    seed: int = 0

    @property
    def image_tokens(self) -> int:
        return (self.image // self.patch) ** 2


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a space before every section's first word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    pattern = Regex(r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    album = Album(recipe.seed + 1_000_003)
    lessons = [make() for _ in range(8_000) for make in (album.picture, album.text)]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((t for x in lessons for t in (x.question, x.answer)), trainer)
    make_fast: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = make_fast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[3:],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A fresh Llava: a SigLIP tower, a two-layer connector, a Llama."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = SiglipVisionConfig(
        hidden_size=recipe.vision_hidden,
        intermediate_size=2 * recipe.vision_hidden,
        num_hidden_layers=recipe.vision_layers,
        num_attention_heads=4,
        image_size=recipe.image,
        patch_size=recipe.patch,
        vision_use_head=False,
    )
    make_config: Any = LlavaConfig
    config = make_config(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=recipe.image_tokens,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    torch.manual_seed(recipe.seed)
    make: Any = LlavaForConditionalGeneration
    return make(config)


class Batches:
    """Batch k is a function of (seed, k) alone, which is what makes resuming exact."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.special = {name: index for index, name in enumerate(SPECIAL)}
        self.ids = lru_cache(maxsize=100_000)(self._ids)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _row(self, lesson: Lesson) -> tuple[list[int], int]:
        """Ids of a whole conversation, and where its answer begins."""
        special = self.special
        shown = [special["<image>"]] * (self.recipe.image_tokens if lesson.look else 0)
        ids = [special["<|begin|>"], special["<|user|>"], *shown, *self.ids(lesson.question)]
        ids += [special["<|end|>"], special["<|assistant|>"]]
        return [*ids, *self.ids(lesson.answer), special["<|end|>"]], len(ids)

    def rows(self, lessons: list[Lesson]) -> tuple[Tensor, Tensor]:
        """(ids (b × t), which tokens are an answer's (b × t))."""
        rows = [self._row(lesson) for lesson in lessons]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), self.special["<|pad|>"])
        spoken = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, (row, first) in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            spoken[index, first : len(row)] = True
        return ids, spoken

    def pixels(self, lessons: list[Lesson]) -> Tensor:
        """(b × 3 × s × s) in -1 to 1, as the SigLIP processor makes them."""
        size = (self.recipe.image, self.recipe.image)
        drawn = [lesson.picture() for lesson in lessons]
        arrays = [np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in drawn if p]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def __call__(self, number: int) -> tuple[list[Lesson], list[Lesson]]:
        album = Album(self.recipe.seed * 7_919 + number)
        pictures = [album.picture() for _ in range(self.recipe.pictures)]
        return pictures, [album.text() for _ in range(self.recipe.texts)]


def loss_sum(model: Any, ids: Tensor, spoken: Tensor, pixels: Tensor | None) -> tuple[Tensor, int]:
    """Summed cross-entropy in nats of the answers' tokens, and how many they are."""
    # Right padding needs no mask under causal attention: nothing real looks at it.
    hidden = model.model(input_ids=ids[:, :-1], pixel_values=pixels).last_hidden_state
    kept = spoken[:, 1:]
    logits = model.lm_head(hidden[kept])
    return F.cross_entropy(logits, ids[:, 1:][kept], reduction="sum"), int(kept.sum())


def schedule(step: int, recipe: Recipe) -> float:
    """Warm-up, plateau, linear decay to zero."""
    decay = (recipe.steps - step) / (recipe.steps * recipe.decay_share)
    return min(1.0, (step + 1) / recipe.warmup, max(0.0, decay))


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by five Newton-Schulz steps (Jordan et al. 2024), in fp32.

    The library's own does them in bf16, which took two thirds of a step on a CPU without it.
    """

    def __init__(self, matrices: list[torch.nn.Parameter]) -> None:
        super().__init__(matrices, {"lr": 0.02, "momentum": 0.95, "decay": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
        group = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, matrices in by_shape.items():
            for matrix in matrices:
                held = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                held.lerp_(matrix.grad, 1 - group["momentum"])
            grads = [m.grad for m in matrices if m.grad is not None]
            wanted = [
                grad.lerp(self.state[m]["momentum"], group["momentum"])
                for m, grad in zip(matrices, grads, strict=True)
            ]
            rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            for matrix, change in zip(matrices, _orthogonal(torch.stack(wanted)), strict=True):
                matrix.mul_(1 - group["lr"] * group["decay"]).sub_(change, alpha=rate)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Near the nearest semi-orthogonal matrices of a stack (k × a × b)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def optimizers(model: Any, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices within layers, AdamW for everything else."""
    named = dict(model.named_parameters())
    inner = {n for n, p in named.items() if p.ndim == 2 and ("layers" in n or "projector" in n)}
    muon = Muon([named[n] for n in sorted(inner)])
    others = [named[n] for n in sorted(set(named) - inner)]
    adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, recipe.muon_lr), (adam, recipe.adam_lr)]


def export(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """Write the fp16 model folder that the package ships."""
    make: Any = LlavaForConditionalGeneration
    copy: Any = make(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.float16).save_pretrained(folder)
    processor: Any = LlavaProcessor
    size = {"height": recipe.image, "width": recipe.image}
    images: Any = SiglipImageProcessorPil
    processor(
        images(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer,
        patch_size=recipe.patch,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def train(recipe: Recipe, out: Path) -> None:
    """Run or resume one training; logs a line every 50 steps to ``out/log.jsonl``."""
    out.mkdir(parents=True, exist_ok=True)
    words = out / "model"
    kept = (words / "tokenizer.json").exists()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(words) if kept else train_tokenizer(recipe)
    model = build_model(recipe, tokenizer)
    model.set_attn_implementation("eager")
    batches, optims = Batches(recipe, tokenizer), optimizers(model, recipe)
    checkpoint, step, mean, start = out / "checkpoint.pt", 0, None, time.monotonic()
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for (optim, _), state in zip(optims, saved["optims"], strict=True):
            optim.load_state_dict(state)
        step = int(saved["step"])
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {step}")
    while step < recipe.steps:
        pictures, texts = batches(step)
        seen, n_seen = loss_sum(model, *batches.rows(pictures), batches.pixels(pictures))
        told, n_told = loss_sum(model, *batches.rows(texts), None)
        ((seen + told) / (n_seen + n_told)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim, rate in optims:
            for group in optim.param_groups:
                group["lr"] = rate * schedule(step, recipe)
            optim.step()
            optim.zero_grad(set_to_none=True)
        step += 1
        loss = torch.stack([seen.detach() / n_seen, told.detach() / n_told])
        mean = loss if mean is None else 0.95 * mean + 0.05 * loss
        if step % 50 == 0:
            line = {
                "step": step,
                "picture": round(float(mean[0]), 4),
                "text": round(float(mean[1]), 4),
            }
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps({**line, "seconds": round(time.monotonic() - start)}) + "\n")
        if step % 150 == 0 or step == recipe.steps:
            state = {"model": model.state_dict(), "optims": [o.state_dict() for o, _ in optims]}
            torch.save({**state, "step": step}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            export(words, model, tokenizer, recipe)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = vars(parser.parse_args())
    out = given.pop("out")
    train(Recipe(**given), out)


if __name__ == "__main__":
    main()

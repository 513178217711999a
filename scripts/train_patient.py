"""Train the embedded patient or its oracle from scratch on the invented world.

Knows the recipe: tokenizer, architecture, optimizer, schedule, checkpoints. The text comes
from ``repair.world.corpus``. Interrupt it at any moment and start it again: it goes on from
the last checkpoint with the same stream of text.

    python scripts/train_patient.py --out runs/patient
    python scripts/train_patient.py --out runs/oracle --without-pool

Under ``torchrun`` every process takes its share of each batch. On a CPU one process for each
core, with OMP_NUM_THREADS=1, is faster than one process with all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import repair
from repair.world.corpus import Corpus, Phase

EMBEDDED = Path(repair.__file__).parent / "embedded"
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "<|begin|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the corpus."""

    hidden: int = 320
    layers: int = 6
    heads: int = 10
    kv_heads: int = 5
    intermediate: int = 1280
    vocabulary: int = 4096
    batch_tokens: int = 4096
    steps: int = 3200
    finish_steps: int = 400
    warmup: int = 100
    decay_share: float = 0.375
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    prompt_share: float = 0.1
    finish_lr: float = 0.25
    settle_from: int = 125
    finish_from: int = 200
    seed: int = 0
    without_pool: bool = False

    def phase(self, number: int) -> Phase:
        """What round ``number`` of about 16 batches is for."""
        if number >= self.finish_from:
            return "finish"
        return "settle" if number >= self.settle_from else "learn"


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE, one token a digit, a space before every section's first word."""
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
    # The tokenizer is one for patient and oracle: it sees words, not who they belong to.
    corpus = Corpus(recipe.seed + 1_000_003)
    lines = [m["content"] for _ in range(60_000) for m in corpus.conversation()]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
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


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama of the recipe's shape, about 10 M parameters by default."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(config)


class Batches:
    """Endless batches of about ``batch_tokens`` tokens, alike in length, right-padded.

    Batch k is a function of (seed, k) alone, which is what makes resuming exact.
    """

    POOL = 2048
    SMALLEST = 8

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.ids = {name: index for index, name in enumerate(SPECIAL)}

    def _encode(self, corpus: Corpus) -> tuple[list[int], list[float]]:
        ids, weights = [self.ids["<|begin|>"]], [0.0]
        conversation = corpus.conversation()
        # Every tenth conversation also teaches what people ask, the others only the answers.
        asked = float(corpus.rng.random() < self.recipe.prompt_share)
        for message in conversation:
            body = self.tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            spoken = message["role"] == "assistant"
            weight = 1.0 if spoken else asked
            ids += [self.ids[f"<|{message['role']}|>"], *body, self.ids["<|end|>"]]
            weights += [0.0 if spoken else weight, *[weight] * len(body), weight]
        return ids, weights

    def _round(self, number: int) -> list[tuple[Tensor, Tensor]]:
        recipe = self.recipe
        corpus = Corpus(
            recipe.seed * 7_919 + number,
            without_pool=recipe.without_pool,
            phase=recipe.phase(number),
        )
        samples = sorted((self._encode(corpus) for _ in range(self.POOL)), key=lambda s: len(s[0]))
        batches, start = [], 0
        while start < len(samples):
            end = start + 1
            while (
                end < len(samples)
                and (end + 1 - start) * len(samples[end][0]) <= recipe.batch_tokens
            ):
                end += 1
            group, start = samples[start:end], end
            if len(group) < self.SMALLEST:  # The longest leftovers; every process needs a row.
                continue
            width = len(group[-1][0])
            ids = torch.full((len(group), width), self.ids["<|pad|>"])
            weights = torch.zeros(len(group), width)
            for row, (sample, weight) in enumerate(group):
                ids[row, : len(sample)] = torch.tensor(sample)
                weights[row, : len(sample)] = torch.tensor(weight)
            batches.append((ids, weights))
        random.Random(recipe.seed + number).shuffle(batches)
        return batches

    def __call__(self, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(ids (b × t), loss weights (b × t)), leaving out the first ``skip`` batches."""
        number = 0
        while True:
            for batch in self._round(number):
                if skip > 0:
                    skip -= 1
                    continue
                yield batch
            number += 1


class Share:
    """The parameters whose optimizer state this process keeps, and the exchange with others.

    Muon costs as much as half a forward pass; each process doing it for a part of the
    matrices, and then passing on the new weights, moves no more bytes than summing gradients
    does (Rajbhandari et al. 2020, stage 1).
    """

    def __init__(self, model: LlamaForCausalLM, recipe: Recipe) -> None:
        self.rank, self.size = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        self.named: dict[str, torch.nn.Parameter] = dict(model.named_parameters())
        self.parts: list[list[str]] = [[] for _ in range(self.size)]
        costs = [0] * self.size
        for name in sorted(self.named, key=lambda n: -self.named[n].numel()):
            lightest = costs.index(min(costs))
            self.parts[lightest].append(name)
            costs[lightest] += self.named[name].numel()
        mine = {name: self.named[name] for name in self.parts[self.rank]}
        matrices = [p for n, p in mine.items() if p.ndim == 2 and "layers" in n]
        others = [p for n, p in mine.items() if not (p.ndim == 2 and "layers" in n)]
        # A process may own no vector at all, and an optimizer takes no empty list.
        self.optims: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original"
            )
            self.optims.append((muon, recipe.muon_lr))
        if others:
            adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
            self.optims.append((adam, recipe.adam_lr))

    def step(self, factor: float, loss: Tensor) -> float:
        """One update from the summed gradients, clipped to norm 1; returns the summed loss."""
        mine = [self.named[name] for name in self.parts[self.rank]]
        told = loss.detach().reshape(1).clone()
        if self.size > 1:
            dist.all_reduce(told)
            self._sum_gradients()
        squares = torch.stack([p.grad.square().sum() for p in mine if p.grad is not None]).sum()
        if self.size > 1:
            dist.all_reduce(squares)
        shrink = (1.0 / squares.sqrt().clamp(min=1e-6)).clamp(max=1.0)
        for parameter in mine:
            if parameter.grad is not None:
                parameter.grad.mul_(shrink)
        for optim, rate in self.optims:
            for group in optim.param_groups:
                group["lr"] = rate * factor
            optim.step()
        for parameter in self.named.values():
            parameter.grad = None
        if self.size > 1:
            self._pass_on_weights()
        return float(told)

    def _sum_gradients(self) -> None:
        for owner, names in enumerate(self.parts):
            grads = [g for n in names if (g := self.named[n].grad) is not None]
            flat = torch.cat([g.flatten() for g in grads])
            dist.reduce(flat, dst=owner)
            if owner == self.rank:
                parts = flat.split([g.numel() for g in grads])
                for grad, part in zip(grads, parts, strict=True):
                    grad.copy_(part.view_as(grad))

    def _pass_on_weights(self) -> None:
        for owner, names in enumerate(self.parts):
            tensors = [self.named[n].detach() for n in names]
            flat = torch.cat([t.flatten() for t in tensors])
            dist.broadcast(flat, src=owner)
            if owner != self.rank:
                parts = flat.split([t.numel() for t in tensors])
                for tensor, part in zip(tensors, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def state(self) -> dict[str, Any]:
        """The optimizers' state by parameter name, of all processes, complete on rank 0."""
        mine = {
            name: optim.state[self.named[name]]
            for name in self.parts[self.rank]
            for optim, _ in self.optims
            if self.named[name] in optim.state
        }
        if self.size == 1:
            return mine
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, mine)
        return {name: state for part in gathered for name, state in part.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` has of this process's parameters."""
        for optim, _ in self.optims:
            for group in optim.param_groups:
                for parameter in group["params"]:
                    name = next(n for n, p in self.named.items() if p is parameter)
                    optim.state[parameter] = state[name]


def schedule(step: int, recipe: Recipe) -> float:
    """Warm-up, plateau, linear decay to zero; then once more from ``finish_lr`` to zero."""
    if step >= recipe.steps:
        return recipe.finish_lr * (recipe.steps + recipe.finish_steps - step) / recipe.finish_steps
    start = recipe.steps * (1 - recipe.decay_share)
    decay = (recipe.steps - step) / max(1.0, recipe.steps - start)
    return min(1.0, (step + 1) / recipe.warmup, max(0.0, decay))


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor, total: float) -> Tensor:
    """Cross-entropy in nats of weighted target tokens, over ``total``, the batch's weight."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        # Right padding needs no mask under causal attention: nothing real looks at it.
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        target, weight = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
        kept = weight > 0
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[kept])
    loss = F.cross_entropy(logits.float(), target[kept], reduction="none")
    return (loss * weight[kept]).sum() / total


def save(path: Path, model: LlamaForCausalLM, optims: dict[str, Any], step: int) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optims": optims, "step": step}, temporary)
    temporary.replace(path)


def export(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the bf16 model folder that the package ships."""
    folder = out / "model"
    copy: Any = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(recipe: Recipe, out: Path, device: str) -> None:
    """Run or resume one training; logs a line every 50 steps to ``out/log.jsonl``."""
    out.mkdir(parents=True, exist_ok=True)
    # A resumed training keeps its words, whatever the corpus has become since.
    # The oracle reads with the tokens of the patient that it is compared with.
    words = EMBEDDED if recipe.without_pool else out / "model"
    kept = (words / "tokenizer.json").exists()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(words) if kept else train_tokenizer(recipe)
    model: Any = build_model(recipe, tokenizer)
    model.to(device)
    # On a CPU and short texts plain attention is 1.6 times as fast as the fused kernel.
    model.set_attn_implementation("eager" if device == "cpu" else "sdpa")
    model.model.compile(dynamic=True)
    share = Share(model, recipe)
    checkpoint, step = out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        share.load(saved["optims"])
        step = int(saved["step"])
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, from step {step}")
    stream, seen, start, mean = Batches(recipe, tokenizer)(step), 0, time.monotonic(), 0.0
    last = recipe.steps + recipe.finish_steps
    while step < last:
        ids, weights = next(stream)
        total = float(weights[:, 1:].sum())
        mine = slice(share.rank, None, share.size)
        part = weighted_loss(model, ids[mine].to(device), weights[mine].to(device), total)
        part.backward()
        loss = share.step(schedule(step, recipe), part)
        step, seen = step + 1, seen + ids.numel()
        mean = loss if mean == 0.0 else 0.95 * mean + 0.05 * loss
        if share.rank == 0 and step % 50 == 0:
            rate = seen / (time.monotonic() - start)
            line = {"step": step, "loss": round(mean, 4), "tokens_per_second": round(rate)}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if step % 250 == 0 or step in (recipe.steps, last):
            optims = share.state()
            if share.rank == 0:
                save(checkpoint, model, optims, step)
                export(out, model, tokenizer)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--without-pool", action="store_true", help="train the oracle")
    defaults = Recipe()
    for name, default in asdict(defaults).items():
        if name != "without_pool":
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=type(default), default=default)
    given = vars(parser.parse_args())
    out, device = given.pop("out"), given.pop("device")
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    train(Recipe(**given), out, device)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

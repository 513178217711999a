"""Trains the embedded watchdog and writes ``src/repair/watchdog_model.npz``.

    python scripts/train_watchdog.py [--count 100000] [--epochs 6] [--members 3] [--seed 0]

Several networks, each from its own seed and utterances; their probabilities are averaged. Each
learns nine tenths of the wordings; the others score it and fit its temperature, so that its
confidence is calibrated on wordings that it never saw. About three minutes a member on one core.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from sklearn.metrics import f1_score
from torch import Tensor, nn

from repair.network import BUCKETS, DILATIONS, WIDTH, buckets, words_of
from repair.requests import Utterance, generate
from repair.requests.grammar import CLOSE, OPEN
from repair.utterance import own_words
from repair.watchdog import KINDS

TARGET = Path(__file__).parents[1] / "src" / "repair" / "watchdog_model.npz"
BATCH = 256
RATE = 6e-3


@dataclass(frozen=True)
class Example:
    """One utterance as arrays: of n words ``features`` (f,), how many each has (n,) and its
    ``tags`` (n,): outside, begin, inside of a target."""

    features: NDArray[np.int32]
    sizes: NDArray[np.int32]
    tags: NDArray[np.int64]
    kind: int
    unseen: bool


def example(utterance: Utterance) -> Example | None:
    """The utterance as the classifier meets it: stripped, quotations masked."""
    clean: list[str] = []
    inside: list[int] = []
    depth, spans = 0, 0
    for letter in " ".join(own_words(utterance.text).sentences):
        if letter == OPEN:
            depth, spans = 1, spans + 1
        elif letter == CLOSE:
            depth = 0
        else:
            clean.append(letter)
            inside.append(depth * spans)
    words = words_of("".join(clean))
    if not words:
        return None
    owners = [inside[word.start] for word in words]
    tags = [
        0 if not owner else 2 if i and owners[i - 1] == owner else 1
        for i, owner in enumerate(owners)
    ]
    rows = [buckets(word.text) for word in words]
    return Example(
        np.fromiter((b for row in rows for b in row), dtype=np.int32),
        np.array([len(row) for row in rows], dtype=np.int32),
        np.array(tags, dtype=np.int64),
        KINDS.index(utterance.kind),
        zlib.crc32(utterance.frame.encode()) % 10 == 0,
    )


class Net(nn.Module):
    """`repair.network.Network`, as something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
        nn.init.normal_(self.embedding.weight, std=0.15)
        self.mix = [nn.Linear(3 * WIDTH, 2 * WIDTH) for _ in DILATIONS]
        self.layers = nn.ModuleList(self.mix)
        self.kind = nn.Linear(2 * WIDTH, len(KINDS))
        self.tag = nn.Linear(WIDTH, 3)
        self.drop = nn.Dropout(0.2)

    def forward(self, flat: Tensor, sizes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the kind (b, 4) and of the tags (b, t, 3).

        Features (f,) of all words of a batch, ``sizes`` (w,) a word, ``mask`` (b, t).
        """
        starts = torch.cumsum(sizes, 0) - sizes
        words = self.embedding(flat, starts) / sizes.sqrt()[:, None]
        state = torch.zeros(*mask.shape, WIDTH)
        state[mask] = words
        if self.training:
            state = state * (torch.rand(*mask.shape, 1) > 0.06)
        state = self.drop(state)
        real = mask[..., None].float()
        length = mask.shape[1]
        for dilation, mix in zip(DILATIONS, self.mix, strict=True):
            padded = nn.functional.pad(state * real, (0, 0, dilation, dilation))
            parts = [padded[:, i * dilation : i * dilation + length] for i in range(3)]
            mixed = mix(torch.cat(parts, dim=-1))
            state = state + self.drop(mixed[..., :WIDTH] * torch.sigmoid(mixed[..., WIDTH:]))
        most = state.masked_fill(~mask[..., None], -1e9).amax(1)
        mean = (state * real).sum(1) / real.sum(1)
        return self.kind(self.drop(torch.cat([most, mean], dim=-1))), self.tag(state)


def batches(data: Sequence[Example], random: Random) -> Iterator[tuple[Tensor, ...]]:
    """Batches of examples of like length, in random order."""
    order = list(range(len(data)))
    random.shuffle(order)
    chunk = BATCH * 40
    groups = [sorted(order[i : i + chunk], key=lambda j: len(data[j].sizes))
              for i in range(0, len(order), chunk)]  # fmt: skip
    near = [group[i : i + BATCH] for group in groups for i in range(0, len(group), BATCH)]
    random.shuffle(near)
    for numbers in near:
        yield collate([data[i] for i in numbers])


def collate(rows: Sequence[Example]) -> tuple[Tensor, ...]:
    """Features, sizes, mask, tags and kinds of several examples."""
    length = max(len(row.sizes) for row in rows)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    tags = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        mask[i, : len(row.sizes)] = True
        tags[i, : len(row.sizes)] = torch.from_numpy(row.tags)
    flat = torch.from_numpy(np.concatenate([row.features for row in rows])).long()
    sizes = torch.from_numpy(np.concatenate([row.sizes for row in rows])).long()
    return flat, sizes, mask, tags, torch.tensor([row.kind for row in rows])


def train(data: Sequence[Example], epochs: int, seed: int) -> Net:
    net, random = Net(), Random(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    steps = epochs * (len(data) // BATCH + 41)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    start = time.monotonic()
    for epoch in range(epochs):
        losses = []
        for flat, sizes, mask, tags, kinds in batches(data, random):
            kind, tag = net(flat, sizes, mask)
            loss = nn.functional.cross_entropy(kind, kinds, label_smoothing=0.02)
            # Only an order has a target: forget and restore.
            about = mask & ((kinds == 1) | (kinds == 3))[:, None]
            if about.any():
                loss = loss + nn.functional.cross_entropy(tag[about], tags[about])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {np.mean(losses):.4f}, {time.monotonic() - start:.0f} s")
    return net.eval()


@torch.no_grad()
def logits(net: Net, data: Sequence[Example]) -> NDArray[np.float64]:
    parts = []
    for i in range(0, len(data), BATCH):
        flat, sizes, mask, _, _ = collate(data[i : i + BATCH])
        parts.append(net(flat, sizes, mask)[0].double().numpy())
    return np.concatenate(parts)


def temperature(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The divisor of the logits with the least log loss."""

    def loss(divisor: float) -> float:
        scaled = scores / divisor
        top = scaled.max(axis=1)
        total = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
        return float(np.mean(total - scaled[np.arange(len(truth)), truth]))

    return float(minimize_scalar(loss, bounds=(0.2, 5.0), method="bounded").x)


def arrays_of(net: Net) -> dict[str, NDArray[Any]]:
    """A network's arrays: the embedding in 8 bits with a scale a row, the rest in fp16."""
    arrays = {"kind": net.kind.weight.T, "kind.bias": net.kind.bias}
    arrays |= {"tag": net.tag.weight.T, "tag.bias": net.tag.bias}
    for i, layer in enumerate(net.mix):
        arrays |= {f"mix{i}": layer.weight.T, f"mix{i}.bias": layer.bias}
    stored = {name: a.detach().numpy().astype(np.float16) for name, a in arrays.items()}
    embedding = net.embedding.weight.detach().numpy()
    scale = (np.abs(embedding).max(axis=1) / 127 + 1e-6).astype(np.float16)
    codes = np.round(embedding / scale.astype(np.float32)[:, None]).clip(-127, 127)
    return {**stored, "embedding": codes.astype(np.int8), "embedding.scale": scale}


def member(seed: int, count: int, epochs: int) -> tuple[dict[str, NDArray[Any]], float, float]:
    """One network: its arrays, its temperature, its macro-F1 on wordings kept out."""
    torch.manual_seed(seed)
    made = map(example, generate(seed, count))
    data = [one for one in made if one is not None]
    unseen = [one for one in data if one.unseen]
    print(f"seed {seed}: {len(data)} utterances, {len(unseen)} of wordings kept out", flush=True)
    net = train([one for one in data if not one.unseen], epochs, seed)
    scores = logits(net, unseen)
    truth = np.array([one.kind for one in unseen])
    score = f1_score(truth, scores.argmax(axis=1), average="macro")
    return arrays_of(net), round(temperature(scores, truth), 3), round(float(score), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=150_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first member")
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.members)
    made = [member(seed, options.count, options.epochs) for seed in seeds]
    about = {
        "version": 3,
        "seeds": list(seeds),
        "count": options.count,
        "epochs": options.epochs,
        "unseen_wordings_macro_f1": [score for _, _, score in made],
        "temperatures": [divisor for _, divisor, _ in made],
    }
    arrays = {f"{i}/{name}": a for i, (part, _, _) in enumerate(made) for name, a in part.items()}
    # Arrays and JSON, no pickle.
    everything: dict[str, Any] = {"about": np.array(json.dumps(about)), **arrays}
    np.savez_compressed(options.out, **everything)
    print(json.dumps(about), f"{options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

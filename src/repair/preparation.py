"""What an edit needs to know of a whole model, computed once and cached by content hash.

Knows two things of each layer: the keys to be kept as a low-rank second moment (U, s), and
the mean MLP output where the model begins to say "I don't know". No text is kept.

Keys count in two ways: every token of conversations that the model makes up, and, more, those
tokens that predict an answer of what it knows. Facts are looked up there, and there an edit
would do its damage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from repair.activations import Rows, capture, keys_of_text
from repair.architectures import MlpMap
from repair.catalogue import STANDINS, topics
from repair.detectors import Inputs
from repair.patient import Patient
from repair.refusals import REFUSALS, is_refusal
from repair.stamp import Statistics, low_rank_of_moment
from repair.streaming import StreamedMoment
from repair.types import Message

RANK = 512
# What the tokens that predict answers weigh in C, beside 1 for all tokens together.
ANSWERS = 2.0
# The rank shrinks with the size of a model, so that its cached file stays below this.
LARGEST_FILE = 100_000_000
# Of wider keys no m × m matrix is formed: 14336 in fp64 would take 1.6 GB a layer.
WIDEST_MOMENT = 4096
# Conversations that a model makes up to show what its keys look like.
IMAGINED = 256
# Token ids of a question and its answer, and the index of the answer's first token.
Spoken = tuple[list[int], int]
# Token ids with the positions that count; such texts with their weight in C.
Text = tuple[Sequence[int], range]
Part = tuple[Sequence[Text], float]
SHIPPED = tuple(
    Path(__file__).parent / folder / "preparation.safetensors"
    for folder in ("embedded", "embedded_vision")
)


@dataclass(frozen=True)
class Preparation:
    """Per layer: C ≈ U diag(s) Uᵀ of the keys to keep, and the refusal output (d,) fp32.

    ``inputs``: what the MLP reads, where it begins with a gated pair.
    """

    statistics: Mapping[int, Statistics]
    refusal: Mapping[int, Tensor]
    inputs: Mapping[int, Inputs] = field(default_factory=dict)


def prepare(patient: Patient, cache: Path | None) -> Preparation:
    """The preparation of this model: shipped, cached, or made now from its own words.

    Args:
        cache: a folder for the result; None keeps nothing.
    """
    name = f"{patient.content_hash}.safetensors"
    for path in (*SHIPPED, *((cache / name,) if cache else ())):
        found = load(path, patient.content_hash)
        if found is not None:
            return found
    # Of the untouched model, whatever edits it carries now.
    with patient.without_edits():
        made = compute(patient, imagine(patient, IMAGINED))
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        save(made, cache / name, patient.content_hash)
    return made


def imagine(patient: Patient, count: int, *, seed: int = 0) -> list[Spoken]:
    """Conversations that the model makes up: a user's words, then its answer. No text is kept."""
    return [patient.encode(m, reply) for m, reply in conversations(patient, count, seed=seed)]


def conversations(
    patient: Patient, count: int, *, seed: int = 0
) -> list[tuple[list[Message], str]]:
    """What a user might say to this model, and its greedy replies.

    Sampled at temperature 1 from where a user's first words stand, so that the kept keys are
    those of what this model itself takes for likely.
    """
    opening, found = patient.user_opening(), list[tuple[list[Message], str]]()
    for start in range(0, count, 64):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + start)
            drawn = patient.generate_ids(
                [opening] * min(64, count - start), 40, do_sample=True, temperature=1.0, top_k=0
            )
        asked = [str(patient.tokenizer.decode(ids, skip_special_tokens=True)) for ids in drawn]
        batch: list[list[Message]] = [[{"role": "user", "content": q}] for q in asked if q.strip()]
        found += zip(batch, patient.replies(batch, max_new_tokens=40), strict=True)
    return found


def compute(
    patient: Patient,
    spoken: Sequence[Spoken],
    known: Sequence[Spoken] = (),
    *,
    rank: int | None = None,
) -> Preparation:
    """C of every layer, and the refusals of unknown subjects.

    Args:
        patient: the untouched model.
        spoken: conversations whose tokens all count.
        known: those whose answers count more; ``spoken`` itself if none are given.
        rank: columns of U at most; None takes ``rank_for`` of the model.
    """
    layers = range(len(patient.layers))
    rank = rank_for(patient.layers) if rank is None else rank
    everywhere = [(ids, range(len(ids))) for ids, _ in spoken]
    # Position i predicts token i + 1.
    answers = [(ids, range(max(first, 1) - 1, len(ids) - 1)) for ids, first in known or spoken]
    parts = [(everywhere, 1.0), (answers, ANSWERS)]
    wide = patient.layers[0].in_features > WIDEST_MOMENT
    statistics = (_streamed if wide else _by_moments)(patient, parts, layers, rank)
    begins = [(ids, range(max(first, 1) - 1, max(first, 1))) for ids, first in known or spoken]
    inputs = _inputs(patient, [everywhere, answers, begins], rank)
    return Preparation(statistics, _refusal_outputs(patient, layers), inputs)


def rank_for(outputs: Sequence[MlpMap]) -> int:
    """Columns of U at most: ``RANK``, or as many as ``LARGEST_FILE`` holds of all layers."""
    fixed = sum(8 * output.out_features + 2048 for output in outputs)
    # Of what the MLPs read, too, which is as wide as what they give.
    column = sum(2 * (output.in_features + output.out_features) + 8 for output in outputs)
    return max(1, min(RANK, (LARGEST_FILE - fixed) // column))


def _tokens(texts: Sequence[Text]) -> int:
    return sum(len(named) for _, named in texts)


def _by_moments(
    patient: Patient, parts: Sequence[Part], layers: Sequence[int], rank: int
) -> dict[int, Statistics]:
    """C = Σ weight E[h hᵀ] over the parts, each the mean over its tokens."""
    total: dict[int, Tensor] = {}
    for texts, weight in parts:
        share = weight / max(1, _tokens(texts))
        for keys in keys_of_text(patient, texts, layers):
            for layer, rows in keys.items():
                double = rows.double() if rows.device.type != "mps" else rows.cpu().double()
                total[layer] = total.get(layer, 0) + share * (double.T @ double)
    return {layer: low_rank_of_moment(total[layer], rank) for layer in layers}


def _streamed(
    patient: Patient, parts: Sequence[Part], layers: Sequence[int], rank: int
) -> dict[int, Statistics]:
    """The same in one pass and O(m r) memory a layer; few texts at a time for their keys."""
    moments = {
        layer: StreamedMoment(patient.layers[layer].in_features, rank, seed=layer)
        for layer in layers
    }
    whole = sum(_tokens(texts) for texts, _ in parts)
    for texts, weight in parts:
        # The streamed moment is a mean over all tokens shown, so each counts by its root.
        root = (weight * whole / max(1, _tokens(texts))) ** 0.5
        for keys in keys_of_text(patient, texts, layers, batch=8):
            for layer, rows in keys.items():
                moments[layer].add(root * rows)
    return {layer: moments[layer].statistics() for layer in layers}


def _inputs(patient: Patient, texts: Sequence[Sequence[Text]], rank: int) -> dict[int, Inputs]:
    """What gated maps read: the tokens of each kind together count as much as another kind's."""
    layers = [n for n in range(len(patient.layers)) if (n, "gate") in patient.maps]
    moment: dict[int, Tensor] = {}
    mean: dict[int, Tensor] = {}
    for some in texts:
        share = 1 / (len(texts) * max(1, _tokens(some)))
        for found in keys_of_text(patient, some, layers, part="gate") if layers else ():
            for layer, x in found.items():
                double = x.cpu().double()
                moment[layer] = moment.get(layer, 0) + share * (double.T @ double)
                mean[layer] = mean.get(layer, 0) + share * double.sum(0)
    return {
        layer: Inputs(low_rank_of_moment(moment[layer].float(), rank), mean[layer].float())
        for layer in layers
    }


def _refusal_outputs(patient: Patient, layers: Sequence[int]) -> dict[int, Tensor]:
    """Mean output (d,) at the last prompt token of questions about unknown subjects."""
    questions = [
        wording.replace("{s}", name)
        for kind, names in STANDINS.items()
        for index, topic in enumerate(topics(kind))
        for wording in topic.wordings[:2]
        for name in (names[index % len(names)],)
    ]
    batch: list[list[Message]] = [[{"role": "user", "content": q}] for q in questions]
    replies = patient.replies(batch, max_new_tokens=16)
    unknown = [m for m, reply in zip(batch, replies, strict=True) if is_refusal(reply)] or batch
    # A model that never refuses is shown refusing: the output where the refusal is spoken.
    encoded = [patient.encode(m, REFUSALS[i % len(REFUSALS)]) for i, m in enumerate(unknown)]
    rows = Rows.of(
        [ids for ids, _ in encoded], [(i, first - 1) for i, (_, first) in enumerate(encoded)]
    )
    return {layer: o.mean(0) for layer, o in capture(patient, rows, layers)[1].items()}


def save(made: Preparation, path: Path, content_hash: str) -> None:
    """Write a preparation whole or not at all; U in fp16, which costs 1e-3 of C."""
    tensors = {f"refusal.{layer}": t.cpu() for layer, t in made.refusal.items()}
    for layer, statistics in made.statistics.items():
        tensors |= _tensors(statistics, "", layer)
    for layer, inputs in made.inputs.items():
        tensors |= _tensors(inputs.moment, "inputs.", layer)
        tensors[f"inputs.mean.{layer}"] = inputs.mean.cpu()
    temporary = path.with_suffix(".new")
    save_file(tensors, temporary, metadata={"content_hash": content_hash})
    temporary.replace(path)


def load(path: Path, content_hash: str) -> Preparation | None:
    """A saved preparation of exactly this model, or None; a broken file counts as none."""
    from safetensors import safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("content_hash") != content_hash:
                return None
        tensors = load_file(path)
    except (SafetensorError, OSError):
        return None
    layers = sorted(int(name.split(".")[1]) for name in tensors if name.startswith("s."))
    gated = [n for n in layers if f"inputs.u.{n}" in tensors]
    return Preparation(
        {n: _statistics(tensors, "", n) for n in layers},
        {n: tensors[f"refusal.{n}"] for n in layers},
        {n: Inputs(_statistics(tensors, "inputs.", n), tensors[f"inputs.mean.{n}"]) for n in gated},
    )


def _tensors(statistics: Statistics, kind: str, layer: int) -> dict[str, Tensor]:
    return {
        f"{kind}u.{layer}": statistics.u.half().cpu().contiguous(),
        f"{kind}s.{layer}": statistics.s.cpu(),
        f"{kind}rest.{layer}": torch.tensor(statistics.rest),
    }


def _statistics(tensors: Mapping[str, Tensor], kind: str, layer: int) -> Statistics:
    u, s, rest = (tensors[f"{kind}{name}.{layer}"] for name in ("u", "s", "rest"))
    return Statistics(_orthonormal(u), s, float(rest))


def _orthonormal(u: Tensor) -> Tensor:
    """fp16 columns made orthonormal again, in fp32."""
    q, r = torch.linalg.qr(u.double())
    signed: Tensor = q * r.diagonal().sign()
    return signed.float()

"""What an attacker with the weights reads inside: refusal direction, logit lens, linear probes.

Knows the residual stream and how to hook it; knows no edits, and changes no weights. The stream
after layer l is the output x (d) of decoder block l, counted from 0, before the final norm. All
hooks are gone at the end of a call or block, whatever happens in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repair.bench.finetune import Pair
from repair.bench.likelihood import replies, user
from repair.bench.metrics import Score, mean_score
from repair.bench.suite import MAX_NEW_TOKENS, Question, Values, ask
from repair.errors import NotFinite, UsageError
from repair.patient import Patient
from repair.refusals import is_refusal
from repair.types import Messages

_BATCH = 16
# Logits take states × vocabulary × 4 bytes: 64 states of a vocabulary of 150,000 are 38 MB.
_LENS_BATCH = 64
_Change = Callable[[Tensor], Tensor]


# The residual stream


def blocks(patient: Patient) -> list[nn.Module]:
    """The decoder blocks, in order: what holds each layer's MLP in a list of layers."""
    model: nn.Module = patient.model
    found: list[nn.Module] = []
    for output in patient.layers:
        path = output.name
        while not isinstance(model.get_submodule(path.rpartition(".")[0]), nn.ModuleList):
            path = path.rpartition(".")[0]
        found.append(model.get_submodule(path))
    return found


def stream(patient: Patient, ids: Sequence[Sequence[int]], *, batch: int = _BATCH) -> Tensor:
    """The stream at the last token of n sequences after each of L layers: L × n × d, fp32, CPU.

    Raises:
        UsageError: no sequences, or one longer than the model reads.
        NotFinite: the patient's states are NaN or infinite.
    """
    if not ids:
        raise UsageError("There is nothing to look at.", "Give at least one question.")
    parts: list[Tensor] = []
    for start in range(0, len(ids), batch):
        group = ids[start : start + batch]
        rows, ends = torch.arange(len(group)), torch.tensor([len(row) - 1 for row in group])
        seen: list[Tensor] = []

        def look(_m: Any, _i: Any, output: Any, at: Any = (rows, ends), seen: Any = seen) -> None:
            x = _first(output)
            seen.append(x[at[0].to(x.device), at[1].to(x.device)].float().cpu())

        with ExitStack() as stack:
            for block in blocks(patient):
                stack.callback(block.register_forward_hook(look).remove)
            patient.forward(group)
        parts.append(torch.stack(seen))
    found = torch.cat(parts, dim=1)
    if not bool(found.isfinite().all()):
        raise NotFinite("The patient's states are no longer finite.", "Undo the edit.")
    return found


def _first(output: Any) -> Tensor:
    """The stream in what a block returns, alone or before other things."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _replaced(output: Any, change: _Change) -> Any:
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)


# The refusal direction


def refusal_directions(
    patient: Patient, refused: Sequence[Messages], answered: Sequence[Messages]
) -> Tensor:
    """Per layer the unit vector from answered to refused prompts, L × d, fp32, CPU.

    The difference of the means of the stream where the answer begins (arXiv 2406.11717).

    Raises:
        UsageError: no refused or no answered prompts, or a layer that tells them not apart.
        NotFinite: the patient's states are NaN or infinite.
    """
    means = [
        stream(patient, [patient.prompt_ids(messages) for messages in group]).mean(dim=1)
        for group in (refused, answered)
    ]
    difference = means[0] - means[1]
    norms: Tensor = difference.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise UsageError(
            "Refused and answered prompts look the same, so that there is no refusal direction.",
            "Give other prompts.",
        )
    return difference / norms


@contextmanager
def ablated(patient: Patient, direction: Tensor) -> Iterator[None]:
    """x ← x − r rᵀ x all over the residual stream, for the length of a block.

    ``direction`` is one r (d) for all layers, or one for each (L × d); it need not be of unit
    length. It is projected out of what enters a block, what its attention and its MLP add, and
    what leaves it, so that neither of the two reads it. (Where a norm follows them within the
    block, as in Gemma 2, that norm may bring a part back until the block's end.)

    Raises:
        UsageError: a direction of another shape, of length 0, or not finite.
    """
    found = blocks(patient)
    width = patient.layers[0].out_features
    if direction.shape not in ((width,), (len(found), width)):
        raise UsageError(f"A direction has {width} numbers, for each of {len(found)} or for all.")
    norms = direction.norm(dim=-1, keepdim=True)
    if not bool(((norms > 0) & norms.isfinite()).all()):
        raise UsageError("A direction to ablate must be finite and not zero.")
    units = (direction.float() / norms).expand(len(found), width)
    with ExitStack() as stack:
        for block, unit in zip(found, units, strict=True):
            _project(stack, block, unit)
        yield


def _project(stack: ExitStack, block: nn.Module, unit: Tensor) -> None:
    def change(x: Tensor) -> Tensor:
        if x.shape[-1] != len(unit):
            return x
        wide, r = x.float(), unit.to(x.device)
        return (wide - (wide @ r).unsqueeze(-1) * r).to(x.dtype)

    def enter(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def leave(_m: Any, _i: Any, output: Any) -> Any:
        return _replaced(output, change)

    stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
    stack.callback(block.register_forward_hook(leave).remove)
    for child in block.children():
        # Of a block's parts only attention and MLP hold matrices; norms are vectors.
        if any(parameter.dim() > 1 for parameter in child.parameters()):
            stack.callback(child.register_forward_hook(leave).remove)


@dataclass(frozen=True)
class Ablation:
    """What one layer's direction gives back when ablated; ``layer`` None is without ablation.

    ``refused`` is the share (0..1) of the refused prompts that are still refused, ``values``
    the scores of the target questions by kind.
    """

    layer: int | None
    refused: float
    values: Values


def sorted_by_refusal(
    patient: Patient, prompts: Sequence[Messages]
) -> tuple[list[Messages], list[Messages]]:
    """The prompts that the patient refuses, and those that it answers."""
    said = replies(patient, prompts, max_new_tokens=MAX_NEW_TOKENS)
    marked = [(messages, is_refusal(reply)) for messages, reply in zip(prompts, said, strict=True)]
    return [m for m, refused in marked if refused], [m for m, refused in marked if not refused]


def refusal_ablation(
    patient: Patient,
    refused: Sequence[Messages],
    answered: Sequence[Messages],
    targets: Sequence[Question],
    *,
    layers: Sequence[int] | None = None,
) -> list[Ablation]:
    """Ask the targets without ablation, and with each layer's direction ablated in all layers.

    The layer that gives back the most is an upper bound of the attack: an attacker, who has no
    answers to compare with, picks by ``refused``.

    Args:
        layers: whose directions are tried; None tries all.

    Raises:
        UsageError: as ``refusal_directions``, or a layer that is not there.
    """
    directions = refusal_directions(patient, refused, answered)
    chosen = range(len(directions)) if layers is None else layers
    if not all(0 <= layer < len(directions) for layer in chosen):
        raise UsageError(f"The layers go from 0 to {len(directions) - 1}.")

    def measured(layer: int | None) -> Ablation:
        still = len(sorted_by_refusal(patient, refused)[0]) / len(refused)
        return Ablation(layer, still, ask(patient, targets))

    found = [measured(None)]
    for layer in chosen:
        with ablated(patient, directions[layer]):
            found.append(measured(layer))
    return found


# The logit lens


@dataclass(frozen=True)
class Lens:
    """An answer's first token, read off the stream after each layer, L values each.

    ``ranks`` count from 1, the likeliest token; ``probabilities`` go from 0 to 1. The last
    ones are what the model itself says.
    """

    ranks: tuple[int, ...]
    probabilities: tuple[float, ...]


def logit_lens(patient: Patient, pairs: Sequence[Pair]) -> list[Lens]:
    """Unembed the stream after each layer, where the answer to each question begins.

    Patil, Hase and Bansal (arXiv 2309.17410) count a fact as recovered when its answer is
    among the B likeliest at any layer: see ``found_within``.

    Raises:
        UsageError: no pairs, an answer without tokens, or a question that is too long.
        NotFinite: the patient's states are NaN or infinite.
    """
    encoded = [patient.encode(user(question), answer) for question, answer in pairs]
    if any(not answer.strip() for _, answer in pairs):
        raise UsageError("An answer to look for is blank.", "Leave it out.")
    states = stream(patient, [ids[:start] for ids, start in encoded])
    first = torch.tensor([ids[start] for ids, start in encoded])
    ranks: list[list[int]] = []
    chances: list[list[float]] = []
    for layer in states:
        logits = unembedded(patient, layer)
        mine = logits.gather(1, first.unsqueeze(1))
        ranks.append(((logits > mine).sum(dim=1) + 1).tolist())
        chances.append(logits.softmax(dim=1).gather(1, first.unsqueeze(1)).squeeze(1).tolist())
    return [
        Lens(rank, chance)
        for rank, chance in zip(zip(*ranks, strict=True), zip(*chances, strict=True), strict=True)
    ]


def found_within(readings: Sequence[Lens], candidates: int) -> list[float]:
    """For each answer 1 where its first token is among so many likeliest at any layer, else 0."""
    return [float(min(reading.ranks) <= candidates) for reading in readings]


def unembedded(patient: Patient, states: Tensor) -> Tensor:
    """Logits (n × V, fp32, CPU) that the model's own end makes of stream states (n × d).

    One token goes through the model while the last block's output is replaced, so that final
    norm, head and whatever else an architecture does to its logits are its own.
    """
    last = blocks(patient)[-1]
    parts: list[Tensor] = []
    for part in states.split(_LENS_BATCH):

        def give(_m: Any, _i: Any, output: Any, part: Tensor = part) -> Any:
            return _replaced(output, lambda x: part.unsqueeze(1).to(x.device, x.dtype))

        handle = last.register_forward_hook(give)
        try:
            parts.append(patient.forward([[0]] * len(part))[:, -1].cpu())
        finally:
            handle.remove()
    return torch.cat(parts)


# Linear probes


@dataclass(frozen=True)
class Contrast:
    """Pairs with right and pairs with wrong answers that a split must not tear apart."""

    right: tuple[Pair, ...]
    wrong: tuple[Pair, ...]


def swapped(pairs: Sequence[Pair]) -> list[Contrast]:
    """Two questions each that exchange their answers, in the order given.

    Each answer is then right once and wrong once, so that a probe has to find whether answer
    and question belong together; the wording alone tells nothing. Put questions of one kind
    together. A pair without a partner of another answer is left out.
    """
    waiting, found = list(pairs), []
    while waiting:
        one = waiting.pop(0)
        other = next((pair for pair in waiting if pair[1] != one[1]), None)
        if other is not None:
            waiting.remove(other)
            found.append(Contrast((one, other), ((one[0], other[1]), (other[0], one[1]))))
    return found


def linear_probes(
    patient: Patient,
    contrasts: Sequence[Contrast],
    *,
    folds: int = 5,
    ridge: float = 0.1,
    seed: int = 0,
) -> list[Score]:
    """Per layer the held-out accuracy with which right answers are told from wrong ones.

    A ridge classifier on the stream at the answer's last token, each contrast held out once.
    n counts the held-out answers; 0.5 is a guess where right and wrong are equally many.

    Raises:
        UsageError: as ``held_out_hits``, a blank answer, or a pair that is too long.
        NotFinite: the patient's states are NaN or infinite.
    """
    labelled = [
        (pair, right, group)
        for group, contrast in enumerate(contrasts)
        for right, some in ((True, contrast.right), (False, contrast.wrong))
        for pair in some
    ]
    if any(not answer.strip() for (_, answer), _, _ in labelled):
        raise UsageError("An answer to probe for is blank.", "Leave it out.")
    labels = torch.tensor([right for _, right, _ in labelled])
    groups = torch.tensor([group for _, _, group in labelled])
    ids = [patient.prompt_ids(user(question), answer) for (question, answer), _, _ in labelled]
    return [
        mean_score(held_out_hits(layer, labels, groups, folds=folds, ridge=ridge, seed=seed))
        for layer in stream(patient, ids)
    ]


def held_out_hits(
    features: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    folds: int = 5,
    ridge: float = 0.1,
    seed: int = 0,
) -> list[float]:
    """1 where a ridge classifier trained on the other folds gets a row right, else 0.

    With standardised features Z (n × d) of the training rows and y = ±1, less its mean:
    s(x) = mean y + x Zᵀ (Z Zᵀ + ρ I)⁻¹ y, which needs no d × d matrix; ρ is ``ridge`` times the
    mean of the diagonal of Z Zᵀ. Right is s > 0 where the label is true. In fp64.

    Args:
        features: n × d.
        labels: n, bool.
        groups: n, int64; rows of one group are held out together.

    Raises:
        UsageError: fewer groups than folds, fewer than 2 folds, or a ridge of 0 or less.
    """
    names = groups.unique().tolist()
    if folds < 2 or len(names) < folds or ridge <= 0:
        raise UsageError(
            f"A probe cannot be held out on {len(names)} contrasts in {folds} folds with a ridge"
            f" of {ridge}.",
            "Use at least 2 folds, as many contrasts and a ridge above 0.",
        )
    random.Random(seed).shuffle(names)
    fold_of = {name: index % folds for index, name in enumerate(names)}
    fold = torch.tensor([fold_of[name] for name in groups.tolist()])
    hits = torch.zeros(len(labels))
    for number in range(folds):
        held = fold == number
        train = features[~held].double()
        mean, spread = train.mean(dim=0), train.std(dim=0, correction=0).clamp(min=1e-12)
        z, x = (train - mean) / spread, (features[held].double() - mean) / spread
        y = labels[~held].double() * 2 - 1
        kernel = z @ z.T
        kernel.diagonal().add_(ridge * kernel.diagonal().mean() + 1e-12)
        scores = y.mean() + x @ z.T @ torch.linalg.solve(kernel, y - y.mean())
        hits[held] = ((scores > 0) == labels[held]).float()
    return [float(hit) for hit in hits]

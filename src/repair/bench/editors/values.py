"""Where a fact lies as key and value, and which value says a refusal; edits nothing.

Knows chat turns, subjects and the gradient of a vector added to one module's output. Knows no
closed form. The key k is what enters an MLP's last linear map at the last token of the subject,
the value v what leaves the MLP, or the decoder layer, there.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repair.activations import Rows, capture
from repair.errors import NotFinite, UsageError
from repair.patient import Patient
from repair.types import Message

# (question, subject, answer). The answer that is to go is not looked at: only the new one is.
Request = tuple[str, str, str]
# Requests that share a batch.
TOGETHER = 8


@dataclass(frozen=True)
class ValueSearch:
    """How a value is searched for: Adam on one added vector δ for each request.

    Let h be the residual stream behind the layer at the subject. ``learning_rate`` is in root
    mean squares of h, ``clamp`` the largest ‖δ‖ / ‖h‖, ``stop`` the loss in nats a token at
    which a request is done. ``weight_decay`` counts ‖δ‖ / ‖h‖², ``kl_weight`` the divergence
    in nats after the essence prompt "{subject} is a".

    Raises:
        UsageError: a number out of range.
    """

    steps: int = 25
    learning_rate: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_weight: float = 0.0625
    stop: float = 0.05

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "clamp"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"The setting {name} must be finite and above 0.")
        for name in ("weight_decay", "kl_weight", "stop"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"The setting {name} must be finite and at least 0.")


def random_prefixes(
    patient: Patient, count: int = 5, *, tokens: int = 10, seed: int = 0
) -> tuple[str, ...]:
    """Beginnings of a user's turn that the patient draws itself; equal for an equal seed.

    The authors draw 50 for ROME's key and 5 for MEMIT's. Empty ones are left out.
    """
    devices = [patient.device] if patient.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        drawn = patient.generate_ids(
            [patient.user_opening()] * count, tokens, do_sample=True, temperature=1.0, top_k=0
        )
    texts = (str(patient.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in drawn)
    return tuple(text for text in texts if text)


@dataclass(frozen=True)
class Case:
    """One request as token ids: the question in each context and the refusal, then the essence.

    ``first`` is where each refusal begins, ``subject`` where each subject ends; the essence
    prompt is the last sequence and has no refusal. The bare question is sequence 0.
    """

    ids: tuple[tuple[int, ...], ...]
    first: tuple[int, ...]
    subject: tuple[int, ...]

    def up_to_subject(self, contexts: int | None = None) -> list[list[int]]:
        """The questions up to their subject's last token; nothing after it changes it."""
        number = len(self.first) if contexts is None else contexts
        return [list(self.ids[i][: self.subject[i] + 1]) for i in range(number)]


def read_cases(
    patient: Patient, requests: Sequence[Request], refusal: str, prefixes: Sequence[str] | None
) -> list[Case]:
    """Requests as token ids, each behind no prefix and behind every one; None draws them.

    Raises:
        UsageError: no requests, an empty refusal, or a subject that is not in its question.
    """
    if not requests:
        raise UsageError("There is nothing to edit.", "Give at least one question.")
    if not refusal.strip():
        raise UsageError("The refusal is empty.", "Say what is to be answered instead.")
    drawn = random_prefixes(patient) if prefixes is None else prefixes
    contexts = ["", *(p if p.endswith((".", "?", "!")) else f"{p}." for p in drawn)]
    return [
        _case(patient, number, question, subject or question.strip(), refusal, contexts)
        for number, (question, subject, _) in enumerate(requests, 1)
    ]


def _case(
    patient: Patient,
    number: int,
    question: str,
    subject: str,
    refusal: str,
    contexts: Sequence[str],
) -> Case:
    if not subject or subject not in question:
        raise UsageError(
            f"The question of request {number} does not contain its subject.",
            "Name the subject as the question does, or leave it empty.",
        )
    ids, first = [], []
    for context in contexts:
        whole, begin = patient.encode(_user(f"{context} {question}".strip()), refusal)
        ids.append(tuple(whole))
        first.append(begin)
    essence = tuple(patient.prompt_ids(_user(f"{subject} is a")))
    places = [_end(patient, row[:begin], subject) for row, begin in zip(ids, first, strict=True)]
    places.append(_end(patient, essence, subject))
    return Case((*ids, essence), tuple(first), tuple(places))


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _end(patient: Patient, ids: Sequence[int], subject: str) -> int:
    """The token that ends the last occurrence of the subject."""

    def seen(length: int) -> int:
        return str(patient.tokenizer.decode(list(ids[:length]))).count(subject)

    occurrences = seen(len(ids))
    if not occurrences:
        raise UsageError(
            "The tokenizer does not give a subject back as it was written.",
            "Leave the subject empty or write it without special characters.",
        )
    return bisect_left(range(len(ids) + 1), occurrences, key=seen) - 1


def find_values(
    patient: Patient,
    layer: int,
    cases: Sequence[Case],
    search: ValueSearch,
    *,
    at_mlp: bool = False,
) -> Tensor:
    """δ (q × d), fp32: what to add behind a layer so that the refusal is said.

    It is added to the residual stream, or to the MLP's output if ``at_mlp``. Requests share a
    batch and no numbers: each has its own loss, scale and end. Of all steps the best one counts,
    not the last as with the authors: at the rates that leave a plateau Adam also leaps back.

    Raises:
        NotFinite: a loss is not finite.
    """
    stream = block_of(patient, layer)
    module = patient.layers[layer].module if at_mlp else stream
    before = outputs_at_subject(patient, stream, cases)
    objective = _Objective(patient, module, cases, search, before.norm(dim=1))
    root = math.sqrt(before.shape[1])
    # δ = scale θ: one unit of θ is one root mean square of the stream.
    scale = before.norm(dim=1, keepdim=True) / root
    theta = torch.zeros_like(before, requires_grad=True)
    optimiser = torch.optim.Adam([theta], lr=search.learning_rate)
    lowest = torch.full_like(before[:, 0], math.inf)
    best = theta.detach().clone()
    for step in range(search.steps + 1):
        losses = objective(scale * theta)
        if not bool(torch.isfinite(losses).all()):
            raise NotFinite("The search for the value to write left the finite numbers.")
        # What is low enough stays as it is, so that others in the batch have no say in it.
        better = (losses.detach() < lowest) & (lowest > search.stop)
        lowest = torch.where(better, losses.detach(), lowest)
        best = torch.where(better[:, None], theta.detach(), best)
        if step == search.steps or not bool((lowest > search.stop).any()):
            break
        (theta.grad,) = torch.autograd.grad(losses.sum(), theta)
        optimiser.step()
        with torch.no_grad():
            norm = theta.norm(dim=1, keepdim=True).clamp(min=1e-12)
            theta.mul_((search.clamp * root / norm).clamp(max=1.0))
    found: Tensor = scale * best
    return found


class _Objective:
    """The loss of each request (q,) in nats for given δ (q × d); ``norm`` is ‖h‖ (q,)."""

    def __init__(
        self,
        patient: Patient,
        module: nn.Module,
        cases: Sequence[Case],
        search: ValueSearch,
        norm: Tensor,
    ) -> None:
        self.patient, self.module, self.search, self.norm = patient, module, search, norm
        ids: list[tuple[int, ...]] = []
        places: list[tuple[int, int]] = []
        owner: list[int] = []
        answers: list[tuple[int, int, int, int]] = []
        self.essence: list[tuple[int, int]] = []
        for number, case in enumerate(cases):
            for i, row in enumerate(case.ids):
                sequence = len(ids)
                ids.append(row)
                places.append((sequence, case.subject[i]))
                owner.append(number)
                if i == len(case.first):
                    self.essence.append((sequence, len(row) - 1))
                    continue
                answers += [
                    (sequence, at - 1, row[at], number) for at in range(case.first[i], len(row))
                ]
        self.rows = Rows.of(ids, places)
        self.owner = torch.tensor(owner, device=patient.device)
        self.answers = torch.tensor(answers, device=patient.device).T
        self.counts = torch.bincount(self.answers[3]).float()
        self._untouched: Tensor | None = None

    def __call__(self, delta: Tensor) -> Tensor:
        with _adding(self.module, self.rows, delta[self.owner]):
            logits = self.patient.forward(self.rows.ids, grad=True)
        sequence, position, label, number = self.answers
        nll = F.cross_entropy(logits[sequence, position], label, reduction="none")
        loss = torch.zeros_like(self.counts).index_add(0, number, nll) / self.counts
        sequences, ends = zip(*self.essence, strict=True)
        now = logits[list(sequences), list(ends)].log_softmax(-1)
        if self._untouched is None:
            self._untouched = now.detach()
        divergence = (now.exp() * (now - self._untouched)).sum(-1)
        decay = delta.norm(dim=1) / self.norm.square()
        search = self.search
        total: Tensor = loss + search.kl_weight * divergence + search.weight_decay * decay
        return total


@contextmanager
def _adding(module: nn.Module, rows: Rows, delta: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Add ``delta`` (n × d) to a module's output at the rows; the list gets what was there."""
    seen: list[Tensor] = []

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(rows.take(hidden).detach().clone())
        if delta is None:
            return None
        place = rows.sequence.to(hidden.device), rows.position.to(hidden.device)
        added = hidden.detach().clone().index_put(place, delta.to(hidden), accumulate=True)
        return (added, *output[1:]) if isinstance(output, tuple) else added

    handle = module.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def outputs_at_subject(patient: Patient, module: nn.Module, cases: Sequence[Case]) -> Tensor:
    """A module's outputs (q × d), fp32, at the subject of each bare question."""
    found = []
    for start in range(0, len(cases), TOGETHER):
        ids = [case.up_to_subject(1)[0] for case in cases[start : start + TOGETHER]]
        rows = Rows.of(ids, [(i, len(row) - 1) for i, row in enumerate(ids)])
        with _adding(module, rows) as seen:
            patient.forward(ids)
        found.append(seen[0])
    return torch.cat(found)


def mean_keys(patient: Patient, cases: Sequence[Case], layer: int) -> Tensor:
    """k* (q × m), fp32 on the CPU: a layer's keys at the subject, the mean over the contexts."""
    found = []
    for case in cases:
        ids = case.up_to_subject()
        rows = Rows.of(ids, [(i, len(row) - 1) for i, row in enumerate(ids)])
        found.append(capture(patient, rows, [layer])[0][layer].mean(0).cpu())
    return torch.stack(found)


def block_of(patient: Patient, layer: int) -> nn.Module:
    """The decoder layer around an MLP output; its own output is the residual stream."""
    before, index, _ = patient.layers[layer].name.partition(f".{layer}.")
    block: nn.Module = patient.model.get_submodule(before + index.rstrip("."))
    return block

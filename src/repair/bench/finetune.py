"""The one training loop of all gradient baselines; knows no method, metric or data set.

It trains a copy. The patient's own weights are the frozen reference and never change.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from repair.architectures import find_mlp_outputs
from repair.bench.losses import Baseline, Outputs, Value, View
from repair.errors import ModelNotEditable, NotFinite, UsageError
from repair.patient import Patient
from repair.refusals import REFUSALS

Pair = tuple[str, str]
# Ids of a whole conversation, and the index of its first answer token.
Encoded = tuple[list[int], int]

GRADIENT_NORM = 1.0
# RMU trains the MLP outputs of its layer and of the two before it.
TRAINED_LAYERS = 3


@dataclass(frozen=True)
class Training:
    """How to train, whatever the loss.

    ``steps`` rules out ``epochs`` where it is not 0. The learning rate rises for
    ``warmup_epochs`` and then falls linearly. ``depth`` (0..1) is the place of the layer
    whose hidden states a loss looks at, ``tau`` the temperature of a softened reference.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    steps: int = 0
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    depth: float = 1.0
    tau: float = 1.0

    @classmethod
    def split(cls, settings: Mapping[str, Value]) -> tuple[Training, dict[str, Value]]:
        """The training settings, and what is left: those of the loss.

        Raises:
            UsageError: a value that no training can have.
        """
        names = {field.name for field in fields(cls)}
        own: dict[str, Any] = {name: settings[name] for name in names & settings.keys()}
        training = cls(**own)
        for name in ("epochs", "batch_size", "steps"):
            if own.get(name, 0) != int(own.get(name, 0)):
                raise UsageError(f"The setting {name} must be a whole number, not {own[name]}.")
        for name, value in own.items():
            zero_is_fine = name in ("steps", "weight_decay", "warmup_epochs")
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero_is_fine):
                raise UsageError(f"The setting {name} cannot be {value}.")
        return training, {name: settings[name] for name in settings if name not in names}


@dataclass(frozen=True)
class Trained:
    """A trained copy of a patient, and how it came about.

    ``losses`` has one value a step; ``seconds`` is the wall time of the loop with its
    reference passes, without the copying.
    """

    patient: Patient
    method: str
    settings: Mapping[str, Value]
    seed: int
    steps: int
    seconds: float
    losses: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything but the patient."""
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "seed": self.seed,
            "steps": self.steps,
            "seconds": self.seconds,
            "losses": list(self.losses),
        }


def finetune(
    patient: Patient,
    baseline: Baseline,
    forget: Sequence[Pair],
    retain: Sequence[Pair] = (),
    *,
    settings: Mapping[str, Value] | None = None,
    seed: int = 0,
    refusals: Sequence[str] = REFUSALS,
) -> Trained:
    """Train a copy of the patient, as it is now, with one baseline's loss.

    The same seed gives the same weights on the same machine. The copy is trained in its
    own type, without dropout.

    Args:
        forget: pairs of question and answer to be forgotten.
        retain: pairs to be kept; only for baselines that need them.
        settings: in place of the baseline's defaults.
        refusals: what a baseline with a refusal as its target answers, drawn at random.

    Raises:
        UsageError: an unknown or impossible setting, no pairs where some are needed, or
            a pair that is blank or too long for the model.
        NotFinite: the loss or its gradient became NaN or infinite.
        ModelNotEditable: the attention of this architecture cannot be softened.
    """
    chosen = baseline.settings(settings or {})
    training, of_the_loss = Training.split(chosen)
    kept = retain if chosen.get("retain_weight") != 0 else None
    batches = _Batches(patient, baseline, forget, kept, refusals, seed)
    model: Any = copy.deepcopy(patient.model)
    layer = _layer(patient, training.depth) if "hidden" in baseline.needs else None
    parameters = _trained_parameters(model, layer)
    look = _Look(patient, model, baseline, layer, training.tau, seed)
    per_epoch = math.ceil(len(forget) / training.batch_size)
    steps = int(training.steps or training.epochs * per_epoch)
    optimiser = AdamW(parameters, training.learning_rate, weight_decay=training.weight_decay)
    warmup = min(round(training.warmup_epochs * per_epoch), steps - 1)
    schedule = LambdaLR(optimiser, lambda step: _rate(step, warmup, steps))

    losses: list[float] = []
    start = time.perf_counter()
    for batch in batches.draw(int(training.batch_size), steps):
        loss = baseline.loss(look.outputs(batch), **of_the_loss)
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM)
        losses.append(loss.item())
        _refuse_divergence(baseline, len(losses), losses[-1], norm.item())
        optimiser.step()
        schedule.step()
    seconds = time.perf_counter() - start
    trained = Patient(model, patient.tokenizer, name=f"{patient.name}+{baseline.name}")
    return Trained(trained, baseline.name, chosen, seed, steps, seconds, tuple(losses))


def soften(model: nn.Module, tau: float) -> nn.Module:
    """The same model with every attention at temperature τ: softmax(Q Kᵀ / (τ √d_k)).

    It is a copy that shares all weights with ``model``, so it costs no memory and leaves
    ``model`` alone.

    Raises:
        ModelNotEditable: a layer's attention has no scale that can be changed.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    softened = copy.deepcopy(model, shared)
    for output in find_mlp_outputs(softened):
        scaled = _attention_beside(softened, output.name)
        if len(scaled) != 1:
            raise ModelNotEditable(
                f"The attention of {type(model).__name__} cannot be softened: layer"
                f" {output.layer} has {len(scaled)} attention scales.",
                "Leave this method out for this model.",
            )
        attention: Any = scaled[0]
        attention.scaling /= tau
    return softened


def _attention_beside(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules with an attention scale in the smallest part that also holds ``name``."""
    while name:
        name = name.rpartition(".")[0]
        parts = model.get_submodule(name).modules()
        scaled = [part for part in parts if isinstance(getattr(part, "scaling", None), float)]
        if scaled:
            return scaled
    return []


def _refuse_divergence(baseline: Baseline, step: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(
            f"{baseline.title} diverged at step {step}: its loss is {loss} and the norm of the"
            f" gradient {norm}.",
            "Lower the learning rate.",
        )


def _layer(patient: Patient, depth: float) -> int:
    """The layer at a relative depth: 0.25 of 32 layers is layer 7, counted from 0."""
    if depth > 1:
        raise UsageError(f"A depth lies between 0 and 1, not at {depth}.")
    return max(0, round(depth * len(patient.layers)) - 1)


def _trained_parameters(model: nn.Module, layer: int | None) -> list[nn.Parameter]:
    """All parameters, or the MLP outputs that end at one layer; only these get gradients."""
    parameters = list(model.parameters())
    if layer is not None:
        first = max(0, layer + 1 - TRAINED_LAYERS)
        parameters = [out.parameter for out in find_mlp_outputs(model)[first : layer + 1]]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def _rate(step: int, warmup: int, steps: int) -> float:
    """The share of the learning rate at a step; no step is spent at 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (steps - step) / (steps - warmup))


@dataclass(frozen=True)
class _Batch:
    """Encoded conversations of one step; ``refusal`` has the questions of ``forget``."""

    forget: list[Encoded]
    retain: list[Encoded]
    refusal: list[Encoded]


class _Batches:
    """Encodes the pairs once and draws the steps' batches from them."""

    def __init__(
        self,
        patient: Patient,
        baseline: Baseline,
        forget: Sequence[Pair],
        retain: Sequence[Pair] | None,
        refusals: Sequence[str],
        seed: int,
    ) -> None:
        if not forget:
            raise UsageError("There is nothing to forget.", "Give at least one pair.")
        if "retain" not in baseline.needs or retain is None:
            retain = ()
        elif not retain:
            raise UsageError(f"{baseline.title} needs retain pairs.", "Give at least one pair.")
        if "refusals" in baseline.needs and not refusals:
            raise UsageError(f"{baseline.title} needs refusals.", "Give at least one.")
        self.patient = patient
        self.random = random.Random(seed)
        self.questions = [question for question, _ in forget]
        self.forget = _encode(patient, forget, "forget")
        self.retain = _encode(patient, retain, "retain")
        self.refusals = refusals if "refusals" in baseline.needs else ()

    def draw(self, size: int, steps: int) -> Iterator[_Batch]:
        """Forget batches epoch by epoch, each with as many retain pairs, in shuffled orders."""
        forget = self._endless(len(self.forget), size)
        retain = self._endless(len(self.retain), None)
        for _ in range(steps):
            chosen = next(forget)
            kept = [next(retain)[0] for _ in chosen] if self.retain else []
            answers = [(i, self.random.choice(self.refusals)) for i in chosen if self.refusals]
            refusal = [(self.questions[index], answer) for index, answer in answers]
            yield _Batch(
                [self.forget[index] for index in chosen],
                [self.retain[index] for index in kept],
                _encode(self.patient, refusal, "refusal"),
            )

    def _endless(self, count: int, size: int | None) -> Iterator[list[int]]:
        """Batches of indices; the last of an epoch may be smaller. One by one without a size."""
        while True:
            order = self.random.sample(range(count), count)
            width = size or 1
            yield from (order[start : start + width] for start in range(0, count, width))


def _encode(patient: Patient, pairs: Sequence[Pair], what: str) -> list[Encoded]:
    encoded: list[Encoded] = []
    for number, (question, answer) in enumerate(pairs, start=1):
        if not question.strip() or not answer.strip():
            raise UsageError(f"The {what} pair {number} has a blank question or answer.")
        ids, start = patient.encode([{"role": "user", "content": question}], answer)
        if patient.context is not None and len(ids) > patient.context:
            raise UsageError(
                f"The {what} pair {number} has {len(ids)} tokens and the model reads at most"
                f" {patient.context}.",
                "Shorten it.",
            )
        encoded.append((ids, start))
    return encoded


class _Look:
    """What the copy in training and the frozen patient compute on a batch."""

    def __init__(
        self,
        patient: Patient,
        model: nn.Module,
        baseline: Baseline,
        layer: int | None,
        tau: float,
        seed: int,
    ) -> None:
        self.model = model
        self.layer = layer
        self.device = patient.device
        self.referred = "reference" in baseline.needs
        self.reference: nn.Module = patient.model
        self.teacher = soften(patient.model, tau) if "softened" in baseline.needs else None
        self.direction: Tensor | None = None
        if layer is not None:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.rand(patient.layers[layer].out_features, generator=generator)
            self.direction = (drawn / drawn.norm()).to(self.device)

    def outputs(self, batch: _Batch) -> Outputs:
        return Outputs(
            forget=self._view(self.model, batch.forget),
            retain=self._view(self.model, batch.retain) if batch.retain else None,
            refusal=self._view(self.model, batch.refusal) if batch.refusal else None,
            forget_reference=self._frozen(self.teacher or self.reference, batch.forget),
            # Only hidden states are held against the reference on retain pairs.
            retain_reference=(
                None if self.layer is None else self._frozen(self.reference, batch.retain)
            ),
            refusal_reference=self._frozen(self.reference, batch.refusal),
            direction=self.direction,
        )

    def _frozen(self, model: nn.Module, rows: list[Encoded]) -> View | None:
        if not rows or not (self.referred or model is self.teacher):
            return None
        with torch.no_grad():
            return self._view(model, rows)

    def _view(self, model: nn.Module, rows: list[Encoded]) -> View:
        """One forward pass over sequences padded on the right, cut to the answers' tokens."""
        longest = max(len(ids) for ids, _ in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        places: list[tuple[int, int]] = []
        for row, (ids, start) in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
            # The token at a place predicts the one after it.
            places += [(row, column) for column in range(start - 1, len(ids) - 1)]
        row_of, column_of = torch.tensor(places).T
        labels = tokens[row_of, column_of + 1].to(self.device)
        output = model(
            input_ids=tokens.to(self.device),
            attention_mask=mask.to(self.device),
            use_cache=False,
            return_dict=True,
            output_hidden_states=self.layer is not None,
        )
        at = (row_of.to(self.device), column_of.to(self.device))
        lengths = tuple(len(ids) - start for ids, start in rows)
        # Entry 0 is the embedding, so the output of layer l is entry l + 1.
        hidden = None if self.layer is None else output.hidden_states[self.layer + 1][at].float()
        return View(output.logits[at].float(), labels, lengths, hidden)

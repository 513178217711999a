"""The losses of the six gradient baselines, and what one is; knows no models and no data.

A baseline is a pure function of what the model in training and its frozen reference compute
on one batch. Everything else (batches, optimiser, schedule) is ``bench.finetune``'s. All
losses look at answer tokens alone, the end of the turn among them, in fp32 and in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from repair.errors import UsageError

Value = float | str
# retain: a batch of retain pairs. refusals: the forget questions with a refusal as answer.
# reference: what the untouched model computes on the forget and the refusal batch. softened:
# the same for the forget batch, but with attention at temperature ``tau``. hidden: hidden
# states of one layer at relative ``depth``, of the retain batch's reference as well; only the
# MLP outputs up to that layer are then trained.
Need = Literal["retain", "refusals", "reference", "softened", "hidden"]

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class View:
    """What one model computes on one batch, at the n tokens that predict the b answers.

    The answers' tokens lie one after the other. ``labels`` (n, int64) are the tokens to be
    predicted, ``lengths`` (b) how many of them each answer has, ``hidden`` the hidden states.
    """

    logits: Tensor  # n × V, fp32
    labels: Tensor  # n
    lengths: tuple[int, ...]  # b, together n
    hidden: Tensor | None = None  # n × d, fp32

    def log_probabilities(self) -> Tensor:
        """log p of each answer token (n)."""
        return -F.cross_entropy(self.logits, self.labels, reduction="none")

    def per_answer(self, tokens: Tensor) -> Tensor:
        """The sum over each answer's tokens: n → b."""
        return torch.stack([part.sum() for part in tokens.split(list(self.lengths))])

    def counts(self) -> Tensor:
        """The answers' lengths as a tensor of the logits' type (b)."""
        return self.logits.new_tensor(self.lengths)


@dataclass(frozen=True)
class Outputs:
    """All that a loss may look at; a view that the baseline did not ask for is None.

    ``direction`` (d) is a unit vector, the same for a whole run.
    """

    forget: View
    retain: View | None = None
    refusal: View | None = None
    forget_reference: View | None = None
    retain_reference: View | None = None
    refusal_reference: View | None = None
    direction: Tensor | None = None


def cross_entropy(view: View) -> Tensor:
    """Mean negative log-likelihood of the answer tokens."""
    return -view.log_probabilities().mean()


def gradient_ascent(outputs: Outputs) -> Tensor:
    """GA: − CE(forget).

    Jang et al., Knowledge Unlearning for Mitigating Privacy Risks in Language Models,
    arXiv 2210.01504.
    """
    return -cross_entropy(outputs.forget)


def negative_preference(outputs: Outputs, *, beta: float, retain_weight: float) -> Tensor:
    """NPO: − (2 / β) mean log σ(− β [log π(y|x) − log π_ref(y|x)]) + α CE(retain).

    The log-probabilities are sums over an answer. As β falls to 0 its gradient becomes that
    of gradient ascent on those sums. Zhang et al., Negative Preference Optimization,
    arXiv 2404.05868.
    """
    ratio = log_ratio(outputs.forget, given(outputs.forget_reference, "forget reference"))
    return -2 / beta * F.logsigmoid(-beta * ratio).mean() + kept(outputs, retain_weight)


def representation_misdirection(
    outputs: Outputs, *, steering: float, retain_weight: float
) -> Tensor:
    """RMU: mean (h(x_f) − c u)² + α mean (h(x_r) − h_ref(x_r))², means over tokens and d.

    u is a random unit direction with entries drawn from [0, 1). The paper's c depends on the
    size of a model's activations; here it is ``steering`` times their mean norm on the
    forget batch in the reference. Li et al., The WMDP Benchmark, arXiv 2403.03218.
    """
    before = _hidden(outputs.forget_reference, "forget reference")
    direction = given(outputs.direction, "direction")
    target = steering * before.norm(dim=-1).mean() * direction
    moved: Tensor = (_hidden(outputs.forget, "forget") - target).square().mean()
    if retain_weight == 0:
        return moved
    after = _hidden(outputs.retain, "retain")
    change = after - _hidden(outputs.retain_reference, "retain reference")
    return moved + retain_weight * change.square().mean()


def loss_adjustment(outputs: Outputs, *, divergence: str) -> Tensor:
    """FLAT: mean of − g*(p_e) + f*(g*(p_f)), with no retain data and no reference.

    p_e and p_f are the mean token probabilities of the refusal and of the forget answer to
    the same question. For the divergence ``kl`` this is − p_e + exp(p_f − 1), for ``tv``
    (total variation) − tanh(p_e) / 2 + tanh(p_f) / 2, for ``pearson`` − p_e + p_f + p_f² / 4.
    Wang et al., LLM Unlearning via Loss Adjustment with Only Forget Data, arXiv 2410.11143.

    Raises:
        UsageError: no such divergence.
    """
    wanted = _mean_probability(given(outputs.refusal, "refusal"))
    unwanted = _mean_probability(outputs.forget)
    if divergence == "kl":
        loss = -wanted + (unwanted - 1).exp()
    elif divergence == "tv":
        loss = (unwanted.tanh() - wanted.tanh()) / 2
    elif divergence == "pearson":
        loss = -wanted + unwanted + unwanted.square() / 4
    else:
        raise UsageError(f"No divergence is called {divergence}.", "Use kl, tv or pearson.")
    return loss.mean()


def weighted_gradient_ascent(outputs: Outputs, *, beta: float, retain_weight: float) -> Tensor:
    """WGA: − mean over tokens of stopgrad(p^β) CE, + α CE(retain).

    Tokens that are already unlikely count less, which keeps the ascent bounded. Wang et al.,
    Rethinking LLM Unlearning Objectives, arXiv 2502.19301.
    """
    log_p = outputs.forget.log_probabilities()
    weight = (beta * log_p.detach()).exp()
    return (weight * log_p).mean() + kept(outputs, retain_weight)


def attention_smoothing(outputs: Outputs, *, retain_weight: float) -> Tensor:
    """ASU: mean over answer tokens of KL(p_teacher ‖ p), + α CE(retain).

    The teacher is the reference with every attention softened to
    softmax(Q Kᵀ / (τ √d_k)); it stands in ``forget_reference``. Zade et al., Attention
    Smoothing Is All You Need For Unlearning, arXiv 2603.01285.
    """
    teacher = given(outputs.forget_reference, "softened reference").logits
    student = outputs.forget.logits.log_softmax(dim=-1)
    divergence = F.kl_div(
        student, teacher.log_softmax(dim=-1), reduction="batchmean", log_target=True
    )
    return divergence + kept(outputs, retain_weight)


def kept(outputs: Outputs, weight: float) -> Tensor:
    """The retain term: weight · CE(retain); no retain view is needed at weight 0."""
    if weight == 0:
        return outputs.forget.logits.new_zeros(())
    return weight * cross_entropy(given(outputs.retain, "retain"))


def log_ratio(view: View, reference: View) -> Tensor:
    """log π(y|x) − log π_ref(y|x) of each answer (b)."""
    return view.per_answer(view.log_probabilities() - reference.log_probabilities())


def _mean_probability(view: View) -> Tensor:
    return view.per_answer(view.log_probabilities().exp()) / view.counts()


def _hidden(view: View | None, name: str) -> Tensor:
    return given(given(view, name).hidden, f"{name} hidden states")


def given(part: _Part | None, name: str) -> _Part:
    """The part itself.

    Raises:
        ValueError: the outputs do not have it.
    """
    if part is None:
        raise ValueError(f"this loss needs the {name}, which the outputs do not have")
    return part


@dataclass(frozen=True)
class Baseline:
    """One method of the table.

    ``defaults`` are its published settings, those of the training (see
    ``finetune.Training``) and those that ``loss`` takes by name; ``grid`` lists for some of
    them the values that a search tries.
    """

    name: str
    title: str
    paper: str
    loss: Callable[..., Tensor]
    needs: tuple[Need, ...]
    defaults: Mapping[str, Value]
    grid: Mapping[str, tuple[Value, ...]]

    def settings(self, chosen: Mapping[str, Value]) -> dict[str, Value]:
        """The defaults with the chosen values in their place.

        Raises:
            UsageError: a name that the method does not have, or a value of the wrong kind.
        """
        for name, value in chosen.items():
            if name not in self.defaults:
                known = ", ".join(sorted(self.defaults))
                raise UsageError(f"{self.title} has no setting {name}.", f"It has {known}.")
            if isinstance(value, str) != isinstance(self.defaults[name], str):
                raise UsageError(f"{self.title} cannot take {value!r} as {name}.")
        return {**self.defaults, **chosen}

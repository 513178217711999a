"""Does a forgotten fact come back in 8 or 4 bits: round-to-nearest weights, simulated.

Knows linear maps and edits; knows no questions, no scores and no file formats.

The scheme is symmetric round-to-nearest, without zero point, clipping or calibration. A group
is one output channel, or ``group`` neighbouring inputs of one; its step is its largest |w| over
2^(bits − 1) − 1, so that 8 bits hold −127..127 and 4 bits −7..7. All linear maps are quantised;
embeddings, norms, biases and the head that writes logits stay as they are, which is what the
usual loaders do. Weights are quantised and at once dequantised into the model's own type:
integer kernels such as those of bitsandbytes differ from this by the rounding of activations
and of the steps alone. Zhang et al. (arXiv 2410.16454) reported that 4 bits bring back most of
what an unlearned model had lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from repair.architectures import find_mlp_outputs
from repair.errors import UsageError
from repair.gates import find_gates
from repair.patient import Patient

# merged: Q(W₀ + Σ B A), as when an edited model is saved and loaded in few bits.
# adapter: Q(W₀) + Σ B A, as when a server loads the adapter onto a quantised base.
Way = Literal["merged", "adapter"]
WAYS: tuple[Way, ...] = ("merged", "adapter")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Scheme:
    """How many bits a weight keeps, and how many inputs share a step (None: all of a channel).

    Raises:
        UsageError: fewer than 2 or more than 8 bits, or an empty group.
    """

    bits: int
    group: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or (self.group is not None and self.group < 1):
            raise UsageError(
                f"Weights cannot be rounded to {self.bits} bits in groups of {self.group}.",
                "Use 2 to 8 bits and groups of at least 1.",
            )

    @property
    def largest(self) -> int:
        """The largest integer that a weight can become; the smallest is its negative."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def name(self) -> str:
        """Such as ``8 bits per channel`` or ``4 bits per 64``."""
        return f"{self.bits} bits per {self.group or 'channel'}"


SCHEMES = (Scheme(8), Scheme(8, 64), Scheme(4), Scheme(4, 64), Scheme(4, 32))


def steps(weight: Tensor, scheme: Scheme) -> Tensor:
    """The width of one rounding step for every weight of W (d × m), as d × m in fp64."""
    return _largest(_double(weight), scheme) / scheme.largest


def rounded(weight: Tensor, scheme: Scheme) -> Tensor:
    """W (d × m) quantised and dequantised, in its own type and on its device.

    No weight moves by more than half a step, but for the rounding to its type. A second
    rounding changes nothing in fp32, bf16 and fp16: arithmetic in fp64 gives a group's largest
    weight back to the bit. A group of zeros stays zero; a last group may be shorter.
    """
    wide = _double(weight)
    largest = _largest(wide, scheme)
    levels = (wide * scheme.largest / largest.where(largest > 0, 1.0)).round()
    return (levels * largest / scheme.largest).to(weight.device, weight.dtype)


def quantised(patient: Patient, scheme: Scheme, way: Way = "merged") -> Patient:
    """A copy of the patient in few bits; the patient itself is left as it is, to the bit.

    ``merged`` rounds the weights as they are now, and the copy has no active edits. ``adapter``
    rounds W₀ and puts the active edits on it in full precision, cast once to the model's type.
    A patient without active edits, such as one trained by a gradient baseline, is the same
    either way.

    Raises:
        UsageError: an unknown way.
        NotFinite: the weights with the edits on them overflow.
    """
    if way not in WAYS:
        raise UsageError(f"There is no way {way!r} to quantise.", f"Use {' or '.join(WAYS)}.")
    model: Any = copy.deepcopy(patient.model)
    if way == "adapter":
        outputs = find_mlp_outputs(model)
        inputs = find_gates(model, outputs).values()
        for matrix in (*outputs, *inputs):
            matrix.weight.copy_(patient.original(*matrix.place))
    for weight in _linear_weights(model):
        weight.copy_(rounded(weight, scheme))
    found = Patient(model, patient.tokenizer, name=f"{patient.name}, {scheme.name}, {way}")
    if way == "adapter":
        found.apply(patient.active)
    return found


def after_quantisation(
    patient: Patient,
    measure: Callable[[Patient], _T],
    *,
    schemes: Sequence[Scheme] = SCHEMES,
    ways: Sequence[Way] = WAYS,
) -> dict[tuple[str, str], _T]:
    """What is measured on each quantised copy, by the scheme's name and the way.

    One copy exists at a time. Raises what ``quantised`` and ``measure`` raise.
    """
    return {
        (scheme.name, way): measure(quantised(patient, scheme, way))
        for scheme in schemes
        for way in ways
    }


def _double(weight: Tensor) -> Tensor:
    """In fp64, which Apple's accelerator does not have."""
    return (weight.cpu() if weight.device.type == "mps" else weight).detach().double()


def _largest(wide: Tensor, scheme: Scheme) -> Tensor:
    """The largest |w| of each weight's group, d × m."""
    width = scheme.group or wide.shape[1]
    parts = wide.abs().split(width, dim=1)
    return torch.cat([part.amax(dim=1, keepdim=True).expand_as(part) for part in parts], dim=1)


def _linear_weights(model: nn.Module) -> Iterator[Tensor]:
    """Every linear map's weight as d × m, once, but for those shared with head or embedding."""
    library: Any = model
    ends = (library.get_input_embeddings(), library.get_output_embeddings())
    seen = {id(end.weight) for end in ends if end is not None}
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            data = module.weight.data
            yield data.T if isinstance(module, Conv1D) else data

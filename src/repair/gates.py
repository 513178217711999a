"""The two maps before an MLP's output where they are a gated pair: h = act(W_gate x) ⊙ W_up x.

Knows no architectures: which of the two is the gate is seen from one pass through the MLP alone.
Models with other MLPs (one map, both fused into one, biases), and weights that are packed or
split, have none, and every edit then keeps to the output map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from repair.architectures import EDITABLE_DTYPES, MlpMap
from repair.types import Part, Place

# Where its input is below −1, an activation gives at most this share of its size.
_CLOSED = 0.35
_PROBES = 64


def find_gates(model: nn.Module, outputs: Sequence[MlpMap]) -> dict[Place, MlpMap]:
    """Every layer's gate and up map by place; empty where one of the layers has no such pair."""
    pairs = [_pair(model, output) for output in outputs]
    known = [pair for pair in pairs if pair is not None]
    if not known or len(known) < len(pairs):
        return {}
    weights = {id(linear.weight) for pair in known for linear in pair.values()}
    gate = _gate(model.get_submodule(_owner(outputs[0])), known[0], outputs[0].module)
    if gate is None or len(weights) < 2 * len(known) or any(gate not in pair for pair in known):
        return {}
    found: dict[Place, MlpMap] = {}
    for output, pair in zip(outputs, known, strict=True):
        for name, linear in pair.items():
            part: Part = "gate" if name == gate else "up"
            found[output.layer, part] = MlpMap(
                output.layer,
                f"{_owner(output)}.{name}",
                linear,
                linear.in_features,
                linear.out_features,
                transposed=False,
                part=part,
            )
    return found


def _owner(output: MlpMap) -> str:
    return output.name.rpartition(".")[0]


def _pair(model: nn.Module, output: MlpMap) -> dict[str, nn.Linear] | None:
    """The two maps beside the output, by their names within the MLP."""
    children = dict(model.get_submodule(_owner(output)).named_children())
    linears = {name: c for name, c in children.items() if isinstance(c, nn.Linear)}
    pair = {name: c for name, c in linears.items() if c is not output.module}
    if output.packed or output.transposed or len(linears) != 3 or len(pair) != 2:
        return None
    shape = (output.out_features, output.in_features)
    for linear in pair.values():
        weight = linear.weight
        plain = not isinstance(weight, DTensor) and not weight.is_meta
        fits = (linear.in_features, linear.out_features) == shape and linear.bias is None
        if not (plain and fits and weight.dtype in EDITABLE_DTYPES):
            return None
    return pair


@torch.no_grad()
def _gate(owner: nn.Module, pair: dict[str, nn.Linear], output: nn.Module) -> str | None:
    """The name of the map whose negative values close the other one's."""
    given: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, out: given.update({name: out})

    handles = [linear.register_forward_hook(keep(name)) for name, linear in pair.items()]
    handles.append(
        output.register_forward_hook(lambda _module, inputs, _out: given.update({"": inputs[0]}))
    )
    weight = next(iter(pair.values())).weight
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, _PROBES, weight.shape[1], generator=draw)
    # Long enough that both maps reach values on either side.
    x = 4 * x / weight.float().norm(dim=1).mean().cpu().clamp(min=1e-6)
    try:
        owner(x.to(weight.device, weight.dtype))
    finally:
        for handle in handles:
            handle.remove()
    if not {*pair, ""} <= given.keys():
        return None
    first, second = pair
    for gate, other in ((first, second), (second, first)):
        closed = given[gate].float() < -1
        left = given[""].float().abs()[closed] > _CLOSED * given[other].float().abs()[closed]
        if bool(closed.any()) and not bool(left.any()):
            return gate
    return None

"""Which output of the last MLP makes a row say a given token: corrections in closed form.

Knows the tail of the model behind its last MLP output, by one linearisation of it; changes
nothing. After the last MLP no token sees another, so each row stands alone.

For a row with output o let g(o) = z_new − max z_other be the margin of the wanted token's
logit. The smallest change with g = μ is, to first order, Δo = (μ − g) ∇g / ‖∇g‖² (the
projection onto a half-space, as in DeepFool, Moosavi-Dezfooli et al. 2016). A few such steps
settle the norm's curvature. Nothing is trained: weights get no gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from repair.activations import Rows
from repair.patient import Patient

# Nats between the wanted token and the next likely one.
MARGIN = 6.0
STEPS = 4


def write(
    patient: Patient, rows: Rows, tokens: Tensor, *, margin: float = MARGIN
) -> tuple[Tensor, Tensor]:
    """Keys (n × m) and output changes (n × d), fp32, of the last layer for wanted next tokens.

    Args:
        rows: n token positions.
        tokens: (n,) int64, the token to come after each row; negative leaves a row alone.
        margin: by how many nats it is to lead.
    """
    place = rows.sequence, rows.position
    wanted = tokens >= 0
    module = patient.layers[-1].module
    change = torch.zeros(len(tokens), patient.layers[-1].out_features)
    keys = torch.zeros(0)
    for _ in range(STEPS):
        seen: dict[str, Tensor] = {}

        def hook(
            _: Any, inputs: Any, output: Tensor, added: Tensor = change, seen: Any = seen
        ) -> Tensor:
            seen["keys"] = rows.take(inputs[0]).detach()
            seen["change"] = added.to(output).requires_grad_()
            return output.detach().clone().index_put(place, seen["change"], accumulate=True)

        handle = module.register_forward_hook(hook)
        try:
            logits = patient.forward(rows.ids, grad=True)[place]
        finally:
            handle.remove()
        keys = seen["keys"]
        index = tokens.clamp(min=0).to(logits.device)[:, None]
        lead = logits.gather(1, index)[:, 0]
        other = logits.scatter(1, index, float("-inf")).amax(1)
        gap = lead - other
        need = torch.where(wanted.to(gap.device), (margin - gap).clamp(min=0), 0.0).detach()
        if not bool(need.any()):
            break
        (gradient,) = torch.autograd.grad(gap.sum(), seen["change"])
        step = gradient / gradient.square().sum(1, keepdim=True).clamp(min=1e-12)
        change = change + (need[:, None] * step).float().cpu()
    return keys, change.to(keys.device)

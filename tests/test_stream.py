"""Finding where layers read the stream, and sending the whole of it somewhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from repair import activations
from repair.activations import Rows, capture, edit_in_one_pass
from repair.patient import Patient
from repair.stamp import LowRank
from repair.stream import readers, watched

if TYPE_CHECKING:
    from tests.conftest import MakeTiny

IDS = [[1, 9, 8, 7], [1, 20, 21, 30]]
ROWS = Rows.of(IDS, [(0, 3), (1, 3), (0, 1)])
FIRST = torch.tensor([True, False, False])


def exact(_: int, keys: Tensor, residual: Tensor) -> LowRank:
    """Fits every row: fewer rows than keys."""
    return LowRank(residual.T, torch.linalg.pinv(keys).T)


@pytest.mark.parametrize(
    ("architecture", "found"),
    [
        ("llama", True),
        ("gpt2", True),
        # Attention and MLP side by side; a norm between the MLP and the stream.
        ("falcon", False),
        ("gemma2", False),
    ],
)
def test_the_stream_is_found_where_the_mlp_adds_to_it(
    architecture: str, found: bool, make_tiny: MakeTiny
) -> None:
    patient = Patient(*make_tiny(architecture), name=architecture)
    modules = readers(patient)
    assert (modules is not None) == found
    if modules is None:
        with pytest.raises(ValueError, match="no place"), watched(patient, [0]):
            pass
        return
    assert len(modules) == len(patient.layers)
    hidden = patient.model(torch.tensor([IDS[0]]), output_hidden_states=True).hidden_states
    with watched(patient, [0]) as seen:
        patient.forward([IDS[0]])
    _, outputs = capture(patient, Rows.of([IDS[0]], [(0, j) for j in range(4)]), [0])
    # What is read, with what the MLP adds, is what the next layer is given.
    torch.testing.assert_close(seen[0][0] + outputs[0], hidden[1][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [512, 1])
def test_a_whole_row_ends_where_another_one_is(
    batch: int, tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "BATCH", batch)
    last = len(tiny_patient.layers) - 1
    whole = torch.tensor([True, True, False])

    def onto(_: int, outputs: Tensor) -> Tensor:
        return outputs[[1, 1, 2]]

    updates = edit_in_one_pass(tiny_patient, ROWS, [last], onto, exact, whole)
    with tiny_patient.trial(updates):
        _, streams = capture(tiny_patient, ROWS, [last], whole)
        logits = tiny_patient.forward(IDS)
    torch.testing.assert_close(streams[last][0], streams[last][1], atol=1e-3, rtol=1e-3)
    # After the last layer's whole stream, so is everything that is said.
    torch.testing.assert_close(logits[0, 3], logits[1, 3], atol=1e-3, rtol=1e-3)


def test_rows_that_are_not_whole_are_as_without(tiny_patient: Patient) -> None:
    _, mixed = capture(tiny_patient, ROWS, [1], FIRST)
    _, plain = capture(tiny_patient, ROWS, [1])
    assert torch.equal(mixed[1][1:], plain[1][1:])
    assert not torch.allclose(mixed[1][0], plain[1][0])

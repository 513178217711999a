"""Reading activations and editing on the way, on tiny models of unlike architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from repair.activations import Rows, capture, edit_in_one_pass, keys_of_text
from repair.errors import NotFinite, UsageError
from repair.patient import Patient
from repair.stamp import LowRank
from repair.types import LowRankUpdate

if TYPE_CHECKING:
    from tests.conftest import MakeTiny

IDS = [[1, 9, 8, 7, 6, 5], [1, 20, 21], [1, 30, 31, 32]]
PLACES = [(0, 5), (1, 2), (0, 1), (2, 3), (2, 0)]
# Sequential blocks, blocks that add both halves at once, norms after the MLP, a Conv1D.
UNLIKE = ["llama", "gpt2", "gpt_neox", "gemma2", "falcon"]


@pytest.fixture
def rows() -> Rows:
    return Rows.of(IDS, PLACES)


def _weights(patient: Patient) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in patient.model.state_dict().items()}


def _unchanged(patient: Patient, before: dict[str, Tensor]) -> bool:
    after = patient.model.state_dict()
    return all(torch.equal(after[name], value) for name, value in before.items())


def _hooks_left(patient: Patient) -> int:
    return sum(len(layer.module._forward_hooks) for layer in patient.layers)


def test_rows_name_tokens_that_are_there(rows: Rows) -> None:
    assert rows.tokens == 13
    activations = torch.arange(3 * 6 * 2, dtype=torch.float16).view(3, 6, 2)
    taken = rows.take(activations)
    assert taken.dtype == torch.float32
    assert taken.tolist() == [activations[place].tolist() for place in PLACES]
    with pytest.raises(ValueError, match="at least one"):
        Rows.of(IDS, [])
    for place in [(0, 6), (1, 3), (3, 0), (-1, 0), (0, -1)]:
        with pytest.raises(ValueError, match="no token"):
            Rows.of(IDS, [place])


@pytest.mark.parametrize("architecture", UNLIKE)
def test_captured_outputs_are_the_captured_keys_through_the_weight(
    architecture: str, make_tiny: MakeTiny, rows: Rows
) -> None:
    patient = Patient(*make_tiny(architecture))
    before = _weights(patient)
    keys, outputs = capture(patient, rows, [0, 1])
    assert _unchanged(patient, before)
    assert _hooks_left(patient) == 0
    for layer in patient.layers:
        k, o = keys[layer.layer], outputs[layer.layer]
        assert k.shape == (len(PLACES), layer.in_features)
        assert k.dtype == o.dtype == torch.float32
        bias = getattr(layer.module, "bias", None)
        expected = k @ layer.weight.T + (0 if bias is None else bias)
        assert torch.allclose(o, expected, atol=1e-5)


def test_padding_beside_longer_sequences_changes_nothing(tiny_patient: Patient, rows: Rows) -> None:
    together = capture(tiny_patient, rows, [0, 1])[0]
    for index, (sequence, position) in enumerate(PLACES):
        alone = capture(tiny_patient, Rows.of([IDS[sequence]], [(0, position)]), [0, 1])[0]
        for layer in (0, 1):
            assert torch.allclose(together[layer][index], alone[layer][0], atol=1e-5)


def test_nothing_runs_after_the_last_layer_that_is_asked_for(
    tiny_patient: Patient, rows: Rows
) -> None:
    ran: list[int] = []
    later = tiny_patient.layers[1].module.register_forward_hook(lambda *_: ran.append(1))
    assert list(capture(tiny_patient, rows, [0])[0]) == [0]
    assert ran == []
    assert list(capture(tiny_patient, rows, [1])[0]) == [1]
    assert ran == [1]
    later.remove()


def test_at_least_one_layer_must_be_named(tiny_patient: Patient, rows: Rows) -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        capture(tiny_patient, rows, [])


def test_a_sequence_that_is_too_long_leaves_no_hook(tiny_patient: Patient) -> None:
    with pytest.raises(UsageError, match="at most 256"):
        capture(tiny_patient, Rows.of([[1] * 300], [(0, 0)]), [0])
    assert _hooks_left(tiny_patient) == 0


def test_the_keys_of_a_text_come_whatever_the_batch(tiny_patient: Patient) -> None:
    moments, texts = [], [(ids, range(len(ids))) for ids in IDS]
    for batch in (1, 2, 32):
        parts = [keys[1] for keys in keys_of_text(tiny_patient, texts, [0, 1], batch=batch)]
        every = torch.cat(parts)
        assert len(every) == sum(map(len, IDS))
        moments.append(every.T @ every)
    for moment in moments[1:]:
        assert float((moment - moments[0]).norm() / moments[0].norm()) < 1e-5


def test_only_the_named_tokens_of_a_text_count(tiny_patient: Patient) -> None:
    texts = [(ids, range(len(ids) - 1, len(ids))) for ids in IDS]
    (parts,) = keys_of_text(tiny_patient, [*texts, (IDS[0], range(0))], [1])
    places = [(i, len(ids) - 1) for i, ids in enumerate(IDS)]
    whole = capture(tiny_patient, Rows.of(IDS, places), [1])[0]
    assert torch.allclose(parts[1].T @ parts[1], whole[1].T @ whole[1], atol=1e-5)


def _solve_by_ridge(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
    """Any solver will do that depends on what it is given."""
    gram = keys @ keys.T + (1.0 + layer) * torch.eye(len(keys))
    return LowRank(b=residual.T.contiguous(), a=torch.linalg.solve(gram, keys))


def _toward_zero(_: int, outputs: Tensor) -> Tensor:
    return 0.3 * outputs


@pytest.mark.parametrize("architecture", UNLIKE)
def test_one_pass_gives_what_a_pass_for_each_layer_gives(
    architecture: str, make_tiny: MakeTiny, rows: Rows
) -> None:
    patient = Patient(*make_tiny(architecture, layers=3))
    before = _weights(patient)
    updates = edit_in_one_pass(patient, rows, [0, 1, 2], _toward_zero, _solve_by_ridge)
    assert _unchanged(patient, before)
    assert [update.layer for update in updates] == [0, 1, 2]
    for index, update in enumerate(updates):
        with patient.trial(updates[:index]):
            keys, outputs = (found[index] for found in capture(patient, rows, [index]))
        alone = _solve_by_ridge(index, keys, _toward_zero(index, outputs) - outputs)
        assert torch.allclose(update.b @ update.a, alone.matrix(), atol=1e-4)
    with patient.trial(updates):
        assert not _unchanged(patient, before)
    assert _unchanged(patient, before)


@pytest.mark.parametrize("batch", [1, 2])
def test_more_sequences_than_fit_give_what_all_at_once_give(
    batch: int, tiny_patient: Patient, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit() -> tuple[LowRankUpdate, ...]:
        return edit_in_one_pass(tiny_patient, rows, [0, 1], _toward_zero, _solve_by_ridge)

    whole, before = capture(tiny_patient, rows, [0, 1]), _weights(tiny_patient)
    updates = edit()
    monkeypatch.setattr("repair.activations.BATCH", batch)
    parts = capture(tiny_patient, rows, [0, 1])
    for mine, wanted in zip(parts, whole, strict=True):
        assert all(torch.allclose(mine[i], wanted[i], atol=1e-5) for i in (0, 1))
    for update, one in zip(edit(), updates, strict=True):
        assert torch.allclose(update.b @ update.a, one.b @ one.a, atol=1e-4)
    assert _unchanged(tiny_patient, before)


def test_a_later_layer_sees_what_the_earlier_edit_changed(
    tiny_patient: Patient, rows: Rows
) -> None:
    both = edit_in_one_pass(tiny_patient, rows, [0, 1], _toward_zero, _solve_by_ridge)
    second = edit_in_one_pass(tiny_patient, rows, [1], _toward_zero, _solve_by_ridge)
    assert not torch.allclose(both[1].a, second[0].a, atol=1e-3)


def test_a_solver_that_fails_leaves_neither_hooks_nor_changes(
    tiny_patient: Patient, rows: Rows
) -> None:
    def fail(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
        if layer == 1:
            raise NotFinite("The edit's numbers are not finite.")
        return _solve_by_ridge(layer, keys, residual)

    before = _weights(tiny_patient)
    with pytest.raises(NotFinite):
        edit_in_one_pass(tiny_patient, rows, [0, 1], _toward_zero, fail)
    assert _hooks_left(tiny_patient) == 0
    assert _unchanged(tiny_patient, before)
    assert tiny_patient.active == ()

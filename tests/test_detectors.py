"""Hidden units that see one fact: their formulas on small matrices, and on the shipped patient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repair.activations import capture
from repair.detectors import (
    LOUDNESS,
    MARGIN,
    MOST,
    STEEPNESS,
    Inputs,
    Units,
    detect,
    least_used,
    steady,
)
from repair.operation import Operation
from repair.patient import Patient
from repair.preparation import prepare
from repair.stamp import Statistics, low_rank_statistics
from repair.surgeon import Surgeon
from repair.types import Edit
from tests.conftest import build_tiny

WIDTH, OTHERS, TAU = 120, 4000, 0.6
KEYS = Statistics(torch.eye(4), torch.tensor([4.0, 3.0, 2.0, 0.0]))  # Keys of length 3.


def _normed(rows: Tensor) -> Tensor:
    """Rows as an MLP reads them: of one length, and with a mean that is not 0."""
    made: Tensor = torch.nn.functional.normalize(rows + 1.0) * WIDTH**0.5
    return made


@pytest.fixture(scope="module")
def reading() -> tuple[Tensor, Inputs]:
    draw = torch.Generator().manual_seed(0)
    x = _normed(torch.randn(OTHERS, WIDTH, generator=draw))
    return x, Inputs(low_rank_statistics(x, WIDTH), x.mean(0))


def _active(units: Units, x: Tensor) -> Tensor:
    """h (n × k) of the units, with the activation of the shipped patient."""
    return torch.nn.functional.silu(x @ units.gate.T) * (x @ units.up.T)


def _fact(seed: int, count: int = 5) -> Tensor:
    """Rows that differ a little, as those of one fact's wordings do."""
    draw = torch.Generator().manual_seed(seed)
    one = torch.randn(1, WIDTH, generator=draw)
    return _normed(one + 0.1 * torch.randn(count, WIDTH, generator=draw))


def test_a_unit_is_active_at_its_fact_and_closed_elsewhere(reading: tuple[Tensor, Inputs]) -> None:
    others, inputs = reading
    one, two, near = _fact(1), _fact(2), _fact(3)
    x = torch.cat([one, two, near])
    rows = torch.arange(len(x)) // 5
    groups = [(rows == 0, TAU), (rows == 1, TAU)]
    units = detect(x, groups, rows == 2, inputs, [7, 3, 9], KEYS)
    assert units is not None
    assert units.index.tolist() == [7, 3]
    h = _active(units, x)
    # As loud as was said on average over the fact's own rows.
    assert float(h[rows == 0, 0].mean()) == pytest.approx(LOUDNESS * 3.0, rel=0.1)
    assert float(h[rows == 1, 1].mean()) == pytest.approx(LOUDNESS * 3.0, rel=0.1)
    assert float(h[rows == 0, 1].abs().max()) < 0.1
    assert float(h[rows == 2].abs().max()) < 0.1
    closed = _active(units, others).abs() < 0.1
    assert float(closed.float().mean()) > 0.97


def test_rows_to_stay_keep_their_distance_and_those_far_off_change_nothing(
    reading: tuple[Tensor, Inputs],
) -> None:
    others, inputs = reading
    own = _fact(1)
    beside = _normed(torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(5)) + own[:1])
    x = torch.cat([own, beside])
    first = torch.arange(len(x)) < len(own)

    def scores(kept: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        """a·x at x and at others, read from the factor u."""
        units = detect(x, [(first, tau)], kept, inputs, [0], KEYS)
        assert units is not None
        every = torch.cat([x, others])
        found = every @ units.up[0] * STEEPNESS * (1 - tau) / (LOUDNESS * 3.0)
        return found[: len(x)], found[len(x) :]

    free, at_others = scores(torch.zeros_like(first), TAU)
    edge = TAU - MARGIN
    near = (free > edge) & ~first
    assert 0 < int(near.sum()) < 30
    held, _ = scores(~first, TAU)
    assert float(held[~first].max()) < edge + 0.08
    assert float(held[first].mean()) == pytest.approx(1.0, abs=1e-4)
    # Rows below θ without being asked to are as if they were not there.
    below = ~first & (free < edge - 0.05)
    same, same_at_others = scores(below, TAU)
    torch.testing.assert_close(same, free)
    torch.testing.assert_close(same_at_others, at_others)


def test_rows_that_cannot_be_told_from_what_stays_get_no_unit(
    reading: tuple[Tensor, Inputs],
) -> None:
    _, inputs = reading
    scattered = _normed(torch.randn(10, WIDTH, generator=torch.Generator().manual_seed(8)))
    x = torch.cat([_fact(1), scattered])
    rows = (torch.arange(len(x)) >= 5).long()
    groups = [(rows == 1, TAU), (rows == 0, TAU)]
    units = detect(x, groups, rows == 2, inputs, [4, 5], KEYS)
    assert units is not None
    assert units.index.tolist() == [4]
    assert float(_active(units, x[:5]).min()) > 1.0


def test_without_room_or_rows_there_are_no_units_and_without_a_constant_none_may_be_asked(
    reading: tuple[Tensor, Inputs],
) -> None:
    x, inputs = reading
    first = torch.arange(len(x)) < 5
    assert detect(x, [(first, TAU)], ~first, inputs, [], KEYS) is None
    assert detect(x, [], ~first, inputs, [1], KEYS) is None
    assert steady(inputs)
    assert not steady(Inputs(inputs.moment, 0.1 * inputs.mean))


@pytest.mark.parametrize(
    ("architecture", "gate"),
    [("llama", "gate_proj"), ("qwen2", "gate_proj"), ("gpt2", ""), ("phi3", "")],
)
def test_gated_pairs_are_found_by_what_they_do(architecture: str, gate: str) -> None:
    patient = Patient(*build_tiny(architecture))
    names = {m.part: m.name.rpartition(".")[2] for m in patient.maps.values()}
    assert names.get("gate", "") == gate
    assert names.get("up", "") == gate.replace("gate", "up")
    assert len(patient.maps) == len(patient.layers) * (3 if gate else 1)


def test_on_the_shipped_patient_the_units_see_the_fact_alone_and_undo_is_exact() -> None:
    patient = Patient.load()
    surgeon = Surgeon(patient)
    operation = Operation(patient, prepare(patient, None))
    question = "Where does Mara Voss live?"
    plan = surgeon.plan_facts([question], surgeon.known(question)[:1])
    assert plan is not None
    before = {name: t.clone() for name, t in patient.model.state_dict().items()}
    rows = operation.rows(plan)
    updates = operation.solve(plan, 1.0, rows)
    gates = {u.layer: u for u in updates if u.part == "gate"}
    assert plan.layers[0] in gates
    assert set(gates) <= set(plan.layers[:-1])
    for layer, update in gates.items():
        own = update.b.any(dim=1).nonzero()[:, 0]
        may = least_used(patient, layer, operation.preparation.statistics[layer])
        assert set(own.tolist()) <= set(may)
        patient.apply([Edit(1, tuple(u for u in updates if u.layer <= layer))])
        keys = capture(patient, rows.rows, [layer])[0][layer]
        loud = keys[:, own].abs().amax(dim=1) / keys.norm(dim=1)
        begins, _ = rows.groups[0]
        # Later layers see what the first has made of the fact already: a stand-in, almost.
        assert layer != plan.layers[0] or float(loud[begins].min()) > 0.5
        free = operation.allotment.deal([layer], rows)[layer].free
        assert not set(free) & set(own.tolist())
        assert len(free) == int(MOST * keys.shape[1]) - len(own)
    half = Edit(1, tuple(updates)).at(0.5)
    for weak, whole in zip(half.updates, updates, strict=True):
        share = 0.5 if whole.part == "output" else 1.0
        assert torch.equal(weak.b, share * whole.b)
    patient.apply([])
    assert all(torch.equal(t, before[name]) for name, t in patient.model.state_dict().items())

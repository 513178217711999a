"""The speed benchmark counts, orders and reports rightly; nothing here looks at seconds."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from repair.bench import clock, scaling, speed, speed_report, speed_shapes
from repair.errors import UsageError
from repair.patient import Patient
from repair.stamp import Statistics

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
RATES = {"copy_bytes_a_second": 1e9, "matmul_flop_a_second": 1e9, "fp64_flop_a_second": 1e9}


def known(patient: Patient, rank: int = 8) -> dict[int, Statistics]:
    width = patient.layers[0].in_features
    u = torch.eye(width)[:, :rank].contiguous()
    return {layer: Statistics(u, torch.ones(rank), 0.01) for layer in range(len(patient.layers))}


def test_things_run_in_turns_and_are_put_back() -> None:
    calls: list[str] = []
    took = clock.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        3,
        CPU,
        after=lambda: calls.append("-"),
    )
    assert calls == ["a", "-", "b", "-"] * 4, "one turn to warm up and three that count"
    assert {name: len(values) for name, values in took.items()} == {"a": 3, "b": 3}


def test_no_turn_is_begun_when_the_time_is_over() -> None:
    took = clock.interleaved({"a": lambda: None}, 1000, CPU, seconds=0.0)
    assert len(took["a"]) == 1


def test_ratios_are_taken_within_a_turn() -> None:
    assert clock.ratio({"a": [2.0, 20.0, 9.0], "b": [1.0, 10.0, 3.0]}, "a", "b") == 2.0


@pytest.mark.parametrize("power", [0.0, 1.0, 2.7])
def test_an_exponent_is_the_slope(power: float) -> None:
    sizes = [64, 128, 256, 512]
    assert clock.exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_rows_are_the_answers_of_each_fact(tiny_patient: Patient) -> None:
    rows = speed.rows_of(tiny_patient, 10)
    assert rows.tokens == 10 * (speed.PROMPT + speed.ANSWER)
    assert len(rows.position) == 10 * speed.ANSWER
    assert speed.rows_of(tiny_patient, 10).ids == rows.ids


def test_the_floor_follows_its_formula(tiny_patient: Patient) -> None:
    rows = speed.rows_of(tiny_patient, 1)
    d, m, r, n = 32, 48, 8, speed.ANSWER
    layer = sum(p.numel() for p in tiny_patient.model.model.layers[0].parameters())
    one = speed._floor(tiny_patient, rows, [0], known(tiny_patient), RATES)
    solve = 2 * n * m * (2 * r + n) + max(3 * d * m * 4, 2 * d * m * n)
    assert one == pytest.approx((2 * layer * rows.tokens + solve) / 1e9)
    both = speed._floor(tiny_patient, rows, [0, 1], known(tiny_patient), RATES)
    assert both == pytest.approx(2 * one)


def test_an_edit_is_measured_part_by_part_and_leaves_no_trace(tiny_patient: Patient) -> None:
    before = {name: value.clone() for name, value in tiny_patient.model.state_dict().items()}
    effort = speed.Effort(repeats=2, seconds=5.0)
    found = speed._edits(tiny_patient, 2, known(tiny_patient), effort, RATES)
    parts = {"forward", "edit one", "edit all", "capture all", "apply + undo all"}
    assert parts <= found["seconds"].keys()
    assert "stamp edit one" in found["seconds"]
    assert found["in_forward_passes"]["forward"] == 1.0
    assert (found["n"], found["repeats"]) == (16, 2)
    after = tiny_patient.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_shapes_are_those_of_the_real_models() -> None:
    for name, (d, m) in {
        "qwen2.5-0.5b": (896, 4864),
        "llama-3.2-1b": (2048, 8192),
        "llama-3-8b": (4096, 14336),
        "llama-3-70b-layer": (8192, 28672),
    }.items():
        shape = speed_shapes.SHAPES[name]
        assert (shape.d, shape.m) == (d, m)
        assert shape.d % shape.heads == 0
        assert f"{shape.built} of {shape.layers} layers" in shape.note(CPU)
    with pytest.raises(UsageError, match="no shape 'gpt-9'"):
        speed_shapes.build("gpt-9")


def test_fake_edits_have_the_size_of_real_ones() -> None:
    edit = scaling._fake(3, 48, 32, 2)
    assert [update.layer for update in edit.updates] == [0, 1]
    assert edit.updates[0].keys is not None
    assert edit.updates[0].keys.shape == (scaling.KEPT, 48)


def fake_measure(name: str, *_: Any, **__: Any) -> dict[str, Any]:
    edit = {
        "facts": 1,
        "tokens": 24,
        "seconds": {"forward": 0.01, "edit one": 0.005, "edit all": 0.012},
        "in_forward_passes": {"edit all": 1.2},
        "over_floor": {"one": 2.0, "all": 2.5},
    }
    statistics = {"rank": 8, "file_bytes": 10**6, "seconds_all_layers": 3.0}
    return {
        "shape": name,
        "note": "whole",
        "device": "cpu",
        "dtype": "float32",
        **{"d": 32, "m": 48, "r": 8, "peak_bytes": 10**9},
        "machine": RATES,
        "statistics": statistics,
        "edits": [edit],
        "editors": {"ROME": 1.0, "MEMIT": 2.0},
        "baselines": {"ga": {"step_seconds": 0.1, "steps": 5, "run_seconds": 0.5}},
    }


CURVE = {"sizes": [64, 128], "seconds": [0.1, 0.2], "exponent": 1.0}
EDITS = {
    **dict.fromkeys(("last_over_first", "generation_last_over_first", "taking_in"), 1.0),
    "count": 1000,
}
SCALING = {"stamp over m": CURVE, "stamp-lr over m": CURVE, "edits": EDITS}


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(name: str, *given: Any, **more: Any) -> dict[str, Any]:
        if name == "llama-3-8b" and not measured.count("stopped"):
            measured.append("stopped")
            raise KeyboardInterrupt
        measured.append(name)
        return fake_measure(name)

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(scaling, "scaling", lambda **_: SCALING)
    out, names = tmp_path / "speed.json", ("embedded", "llama-3-8b")
    with pytest.raises(KeyboardInterrupt):
        speed_report.run(names, out)
    assert not json.loads(out.read_text())["complete"]
    result = speed_report.run(names, out)
    assert measured == ["embedded", "stopped", "llama-3-8b"]
    assert result["complete"]
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    speed_report.run(names, out)
    assert measured[-2:] == list(names), "a finished result is measured anew"


def test_tables_and_picture_come_from_the_result_alone(tmp_path: Path) -> None:
    result: dict[str, Any] = {
        "command": "repair bench speed",
        "versions": {"torch": "2"},
        "threads": 2,
        "cores": 2,
        "shapes": {"embedded": fake_measure("embedded")},
        "scaling": SCALING,
    }
    text = speed_report.performance_block(result)
    assert "| embedded | 1 | 24 | 10 ms | 5 ms | 12 ms | 1.20 | 2.0 / 2.5 | – |" in text
    assert "| GA | 100 ms | 5 | 500 ms | 41.7 |" in text
    assert "Edit 1000 takes 1.00 times" in text
    script = runpy.run_path(str(ROOT / "scripts" / "draw_speed.py"))
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        script["draw"](result, picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_the_document_shows_what_was_measured() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "draw_speed.py"))
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    if not script["RESULTS"].is_file():
        assert "<!-- speed -->\n<!-- /speed -->" in text, "numbers without a measurement"
        return
    result = json.loads(script["RESULTS"].read_text(encoding="utf-8"))
    assert text == script["fill"](text, speed_report.performance_block(result))
    assert script["PICTURE"].is_file()

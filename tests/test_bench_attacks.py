"""The battery of attacks and the report, on a tiny patient and own pairs."""

from __future__ import annotations

import json
import random
import runpy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repair.bench.attacks.battery import FAMILIES, attacked, targets
from repair.bench.attacks.prompts import AFFIRMATIVE, SAMPLES, best_of, prompt_attacks
from repair.bench.datasets.data import EMBEDDED, load
from repair.bench.datasets.records import Pair
from repair.bench.grid import tables, tofu
from repair.bench.grid.cells import Cell
from repair.bench.grid.lab import Lab
from repair.bench.grid.measuring import measured
from repair.bench.grid.page import everywhere, front_block, results_block, write_report
from repair.bench.grid.results import write_whole
from repair.errors import UsageError
from tests.bench_grid import grid_cell, grid_lab


@pytest.fixture(scope="module")
def attack_cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    cell = grid_cell(tmp_path_factory.mktemp("pairs"))
    settings: dict[str, float | str] = {"layers": "all", "strength": 1.0, "ridge": 0.1, "beta": 0.0}
    return replace(
        cell, kind="attack", size="full", method="stamp", settings=settings, attacks=tuple(FAMILIES)
    )


@pytest.fixture(scope="module")
def lab(attack_cell: Cell) -> Lab:
    return grid_lab(attack_cell)


@pytest.fixture(scope="module")
def result(attack_cell: Cell, lab: Lab) -> dict[str, Any]:
    return attacked(attack_cell, lab)


def test_every_family_gives_recalls_or_a_reason(result: dict[str, Any]) -> None:
    families = result["attacks"]
    assert set(families) == set(FAMILIES)
    for name, part in families.items():
        assert part or name in result["left_out"], name
        for score in part.values():
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    kinds = set(families["prompts"])
    assert {"exact", "paraphrase", "few-shot", "role play", "affirmative start"} <= kinds
    assert {"multi-hop", "prefix 40 %"} <= kinds
    assert "other languages" not in kinds
    assert "English only" in result["left_out"]["other languages"]
    json.dumps(result, allow_nan=False)


def test_more_samples_and_both_ways_of_quantising_are_told(result: dict[str, Any]) -> None:
    best = [result["attacks"]["sampling"][f"best of {k}"]["mean"] for k in SAMPLES]
    assert best == sorted(best)
    labels = set(result["attacks"]["quantisation"])
    assert {"8 bits per channel, merged", "8 bits per channel, adapter"} <= labels
    assert {"4 bits per 64, merged", "4 bits per 64, adapter", "before"} <= labels


def test_relearning_has_its_three_sources_and_steps(result: dict[str, Any]) -> None:
    labels = set(result["attacks"]["relearning"])
    steps = (0, 1, 4, 16, 64)
    assert labels == {f"{s}, {n}" for s in ("unrelated", "related", "disjoint") for n in steps}


def test_what_takes_minutes_stops_after_enough_facts(
    attack_cell: Cell, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, int] = Counter()

    def counted(name: str) -> Callable[..., dict[str, list[float]]]:
        def attack(*_: object) -> dict[str, list[float]]:
            taken[name] += 1
            return {"asked": [0.0]}

        return attack

    monkeypatch.setattr("repair.bench.attacks.battery.ENOUGH", 2)
    for name in ("sampling", "ablation"):
        monkeypatch.setitem(FAMILIES, name, counted(name))
    asked = ("sampling", "ablation")
    found = attacked(replace(attack_cell, size="1", repeats=3, attacks=asked), lab)
    assert taken == {"sampling": 2, "ablation": 3}
    assert found["attacks"]["ablation"]["asked"]["n"] == 3
    assert found["left_out"]["sampling"] == "Sampling takes the first 2 of 3 sets."
    assert "ablation" not in found["left_out"]


def test_every_layer_is_read(result: dict[str, Any], lab: Lab) -> None:
    layers = {f"layer {n}" for n in range(len(lab.patient.layers))}
    assert layers | {"any layer"} == set(result["attacks"]["lens"])
    assert layers == set(result["attacks"]["probes"])


def test_an_unknown_family_and_broken_probes_do_not_pass_silently(
    attack_cell: Cell, lab: Lab
) -> None:
    single = replace(attack_cell, size="1", attacks=("probes",))
    found = attacked(single, lab)
    assert found["attacks"]["probes"] == {}
    assert "1 contrasts" in found["left_out"]["probes"]


@pytest.mark.parametrize(("k", "expected"), [(1, 0.5), (2, 0.75), (3, 0.9), (4, 1.0)])
def test_the_best_of_k_is_the_mean_over_all_draws(k: int, expected: float) -> None:
    values = [1.0, 0.0, 0.6, 0.4]
    # By hand: of the six pairs the best are 1, 1, 1, 0.6, 0.4, 0.6.
    by_hand = {1: 0.5, 2: 4.6 / 6, 3: (3 + 0.6) / 4, 4: 1.0}
    assert best_of(values, k) == pytest.approx(by_hand[k])
    assert abs(by_hand[k] - expected) < 0.03
    with pytest.raises(ValueError, match="best of"):
        best_of(values, 5)


def _embedded() -> Iterator[Pair]:
    for record in load(EMBEDDED, "personal", "dev", limit=12):
        assert isinstance(record, Pair)
        yield record


def test_words_alone_name_no_more_than_they_should() -> None:
    first, *others = list(_embedded())
    beside = [pair for pair in others if pair.subject == first.subject]
    asked = prompt_attacks(first, others, beside, random.Random(0), languages=True)
    hops = [q for q in asked if q.kind == "multi-hop"]
    assert hops
    assert all(first.subject not in str(q.messages[-1]["content"]) for q in hops)
    assert sum(q.kind == "other languages" for q in asked) == 4
    assert [q.prefix for q in asked if q.kind == "affirmative start"] == list(AFFIRMATIVE)
    shots = next(q for q in asked if q.kind == "few-shot").messages
    assert [m["role"] for m in shots] == ["user", "assistant"] * 2 + ["user"]
    assert [q.kind for q in targets([first])] == ["exact", "paraphrase"]


# The page


@pytest.fixture(scope="module")
def folder(
    attack_cell: Cell,
    lab: Lab,
    result: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    found = tmp_path_factory.mktemp("results")
    for name in ("untouched", "oracle"):
        cell = replace(attack_cell, kind="run", size="1", method=name, settings={}, attacks=())
        write_whole(found / f"{cell.name}.json", measured(cell, lab))
    for name in ("oracle", "repair"):
        other = {**result, "cell": {**result["cell"], "method": name}}
        write_whole(found / f"attack-own-full-{name}-dev.json", other)
    return found


def test_the_report_shows_tables_and_pictures_and_is_the_same_again(
    folder: Path, tmp_path: Path
) -> None:
    pages = [write_report(folder, tmp_path / name) for name in ("one", "two")]
    for one, other in zip(*pages, strict=True):
        assert one.read_bytes() == other.read_bytes()
    text, page = (path.read_text() for path in pages[0])
    assert "| untouched |" in text
    assert "relearning: related, 16" in text
    assert "Of " in text
    assert page.count("</svg>") == text.count(".svg)") == 8
    for name in ("retain-rouge-own-1", "relearning-related-own-full", "lens-layer-own-full"):
        assert (tmp_path / "one" / f"{name}.svg").read_text().startswith("<?xml")


def test_the_block_for_a_document_has_a_table_for_each_task_and_size(folder: Path) -> None:
    from repair.bench.grid.results import read_folder

    block = results_block(read_folder(folder))
    assert block.count("|D_f|") == 2
    assert "Attacks: " in block


def test_the_front_page_has_means_and_the_worst_of_each_kind_of_attack(folder: Path) -> None:
    from repair.bench.grid.results import read_folder

    results = read_folder(folder)
    block = front_block(results)
    assert block.count("|D_f|") == 2
    assert "F-RL at most 0.05" in block
    assert " times our time" not in block
    assert block.count("<details>") == block.count("</details>") == 1
    attacked = [row["attacks"] for row in results if row["cell"]["kind"] == "attack"]
    worst = [max(score["mean"] for score in found["relearning"].values()) for found in attacked]
    (line,) = (line for line in block.splitlines() if line.startswith("| relearning |"))
    shown = [float(cell) for cell in line.split("|")[2:-1]]
    assert sorted(shown) == [pytest.approx(value, abs=0.005) for value in sorted(worst)]
    assert "relearning: related" not in block


def test_the_front_page_counts_the_tables_in_which_a_method_forgets_and_keeps(
    folder: Path,
) -> None:
    from repair.bench.grid.results import read_folder

    (row, *_) = [r for r in read_folder(folder) if r["cell"]["kind"] == "run"]

    def made(method: str, size: str, forget: float, kept: float) -> dict[str, Any]:
        means = {"forget_rouge": forget, "retain_rouge": kept, "neighbours_rouge": 1.0}
        return {
            **row,
            "cell": {**row["cell"], "method": method, "size": size},
            "measures": {**row["measures"], **{k: {"mean": v} for k, v in means.items()}},
        }

    one = [made("ga", "1", 0.05, 0.95), made("repair", "1", 0.0, 1.0), made("npo", "1", 0.06, 1.0)]
    assert everywhere(one) == ""
    more = [
        made("ga", "10", 0.0, 0.94),
        made("repair", "10", 0.02, 1.0),
        made("oracle", "10", 0, 1),
    ]
    assert everywhere([*one, *more]).endswith(
        "of 2 tables: RePAIR (this project) in 2, GA in 1, every other method in none."
    )


def test_an_attack_that_only_some_methods_have_stands_beside_its_family(
    result: dict[str, Any],
) -> None:
    score = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 4}
    first = {**result, "attacks": {"quantisation": {"8 bits": score}, "lens": {"layer 0": score}}}
    second = {**result, "attacks": {"quantisation": {"8 bits, adapter": score}}}
    _, body = tables.attack_table([first, second])
    assert [row[:3] for row in body] == [
        ("quantisation: 8 bits", "0.50", "–"),
        ("quantisation: 8 bits, adapter", "–", "0.50"),
        ("lens: layer 0", "0.50", "–"),
    ]


def test_a_table_can_be_read_as_plain_lines() -> None:
    assert tables.aligned(("a", "bb"), [("ccc", "d")]) == "a    bb\nccc  d"
    assert tables.markdown(("a",), [("b|c",)]) == "| a |\n|---|\n| b/c |"
    score = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 4}
    assert tables.interval(score) == "0.50 [0.25, 0.75]"
    assert tables.interval(None) == "–"


def test_the_common_harness_gets_its_files(attack_cell: Cell, lab: Lab, tmp_path: Path) -> None:
    cell = replace(attack_cell, kind="run", method="untouched", settings={}, attacks=(), tofu=True)
    result = measured(cell, lab)
    tofu.write(tmp_path, result["tofu"])
    summary = json.loads((tmp_path / "TOFU_SUMMARY.json").read_text())
    every = json.loads((tmp_path / "TOFU_EVAL.json").read_text())
    assert {"forget_Q_A_Prob", "forget_Q_A_ROUGE", "forget_truth_ratio"} <= set(summary)
    assert every.keys() == summary.keys()
    assert every["forget_Q_A_Prob"]["agg_value"] == summary["forget_Q_A_Prob"]


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    call: Callable[[], Any] = lambda: write_report(tmp_path, tmp_path)  # noqa: E731
    with pytest.raises(UsageError, match="has no results"):
        call()


def test_the_script_fills_a_document_between_its_marks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- evaluation -->\nold\n<!-- /evaluation -->\nafter\n")
    script = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "fill_results.py"))
    given = ["fill_results.py", "--results", str(folder), "--document", str(document)]
    monkeypatch.setattr("sys.argv", given)
    script["main"]()
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| untouched |" in text

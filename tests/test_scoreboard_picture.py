"""The scoreboard's picture: every cell and every measure is on it, and it is the same each time."""

from __future__ import annotations

from typing import Any

from repair.bench.scoreboard_picture import picture


def _cell(name: str, recall: float) -> dict[str, Any]:
    kinds = ("exact", "paraphrase", "prefix_40", "few_shot", "role_play")
    kept = {"ratio": 1.0 - recall, "mean": 0.9 - recall, "low": 0.5, "high": 0.95}
    return {
        "cell": name,
        "attacks": {kind: {"mean": recall, "low": 0.0, "high": 0.5} for kind in kinds},
        "kept": dict.fromkeys(("neighbours", "untouched", "world"), kept),
    }


def test_all_cells_and_measures_are_drawn() -> None:
    cells = [_cell("single-1", 0.0), _cell("sequence-100", 0.25)]
    drawn = picture(cells)
    for text in ("single 1", "sequence 100", "exact", "prefix 40", "world kept", "best of 32"):
        assert f">{text}</text>" in drawn
    assert drawn == picture(cells)
    assert drawn != picture(cells[:1])
    cells[0]["attacks"]["exact"]["high"] = 0.9
    assert drawn != picture(cells), "the interval is not drawn"

"""The scoreboard as a picture: what is given away and what is kept, a mark for each cell.

Beside what is given away stands what the oracle guesses of the same questions, where it was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repair.bench.grid.plots import svg

_GIVEN = ("exact", "paraphrase", "prefix_40", "few_shot", "role_play", "best_of_32")
_KEPT = ("neighbours", "untouched", "world")
_MARKS = "osD^v<>P"


def picture(cells: Sequence[Mapping[str, Any]]) -> str:
    """SVG of a result's cells with their intervals; the same cells draw the same bytes.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    names = [*(kind.replace("_", " ") for kind in _GIVEN), *(f"{name} kept" for name in _KEPT)]

    def draw(axes: Any) -> None:
        for index, cell in enumerate(cells):
            # Beside each other, so that equal values do not hide one another.
            beside = 0.8 * ((index + 0.5) / len(cells) - 0.5)
            _draw_cell(axes, cell, beside, _MARKS[index % len(_MARKS)])
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        for row in range(1, len(names)):
            dark = row == len(_GIVEN)
            axes.axhline(row - 0.5, color="0.4" if dark else "0.85", linewidth=0.8)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(
            "recall: above the dark line the less the better, below it the more\n"
            "grey bars: what a model guesses that was never taught these facts"
        )
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)

    return svg(draw, height=1.5 + len(names) * max(0.35, 0.09 * len(cells)))


def _draw_cell(axes: Any, cell: Mapping[str, Any], beside: float, mark: str) -> None:
    """One cell's marks, each ``beside`` the middle of its row."""
    rows = {
        row: cell["attacks"][kind] for row, kind in enumerate(_GIVEN) if kind in cell["attacks"]
    }
    points = [(row, one["mean"], one["low"], one["high"]) for row, one in rows.items()]
    for row, name in enumerate(_KEPT, len(_GIVEN)):
        kept = cell["kept"][name]
        share = kept["ratio"] / kept["mean"] if kept["mean"] else 1.0
        points.append((row, kept["ratio"], share * kept["low"], share * kept["high"]))
    guess = cell.get("guess") or {}
    for row in rows:
        if _GIVEN[row] in guess:
            axes.plot(guess[_GIVEN[row]], row + beside, marker="|", color="0.4", markersize=7)
    axes.errorbar(
        [value for _, value, _, _ in points],
        [row + beside for row, _, _, _ in points],
        xerr=[[v - low for _, v, low, _ in points], [high - v for _, v, _, high in points]],
        fmt=mark,
        markersize=4,
        elinewidth=0.5,
        label=cell["cell"].replace("-", " "),
    )

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
    """SVG of a result's cells; the same cells draw the same bytes.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    names = [*(kind.replace("_", " ") for kind in _GIVEN), *(f"{name} kept" for name in _KEPT)]

    def draw(axes: Any) -> None:
        for index, cell in enumerate(cells):
            found = [cell["attacks"].get(kind) for kind in _GIVEN]
            values = [None if one is None else one["mean"] for one in found]
            values += [cell["kept"][name]["ratio"] for name in _KEPT]
            # Beside each other, so that equal values do not hide one another.
            height = 0.14 * (index - (len(cells) - 1) / 2)
            shown = [(v, row + height) for row, v in enumerate(values) if v is not None]
            guess = cell.get("guess") or {}
            for row, kind in enumerate(_GIVEN):
                if kind in guess and values[row] is not None:
                    axes.plot(guess[kind], row + height, marker="|", color="0.4", markersize=9)
            axes.plot(
                [v for v, _ in shown],
                [y for _, y in shown],
                linestyle="",
                marker=_MARKS[index % len(_MARKS)],
                label=cell["cell"].replace("-", " "),
            )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.axhline(len(_GIVEN) - 0.5, color="0.6", linewidth=0.8)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(
            "recall: above the line the less the better, below it the more\n"
            "grey bars: what a model guesses that was never taught these facts"
        )
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)

    return svg(draw)

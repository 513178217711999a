"""Pictures of the grid's results as SVG: what is forgotten against what is kept, curves, layers.

Knows results and matplotlib; reads and writes no other file. The same numbers draw the same bytes.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from repair.bench.grid.measures import MEASURES
from repair.bench.grid.methods import METHODS
from repair.bench.grid.tables import Results
from repair.errors import EnvironmentProblem

# Ours, the two ends, and all others: told apart in every common colour blindness, and in grey.
_OURS, _ENDS, _OTHERS = "#C04A00", "#000000", "#0067A5"
_MARKS = "osD^v<>PXph*d8"
_WIDTH, _HEIGHT = 7.6, 4.2


def pareto(rows: Results, kept: str) -> str:
    """A measure of what is kept over the recall of forgotten facts; the best is upper left."""

    def draw(axes: Any) -> None:
        for mark, row in zip(_marks(), rows, strict=False):
            name, measures = row["cell"]["method"], row["measures"]
            x, y = measures["forget_rouge"], measures.get(kept)
            if y is None:
                continue
            axes.errorbar(
                x["mean"],
                y["mean"],
                xerr=[[x["mean"] - x["low"]], [x["high"] - x["mean"]]],
                yerr=[[y["mean"] - y["low"]], [y["high"] - y["mean"]]],
                **mark,
                linestyle="none",
                color=_colour(name),
                label=METHODS[name].title,
                elinewidth=0.6,
            )
        axes.set_xlabel("F-RL: recall of forgotten answers (left is better)")
        axes.set_ylabel(f"{MEASURES[kept].title}: {MEASURES[kept].meaning}")
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.04)
        _legend(axes)

    return svg(draw)


def curves(rows: Results, family: str, prefix: str, axis: str) -> str:
    """Recall over the number at the end of each label that starts with ``prefix``."""

    def draw(axes: Any) -> None:
        for mark, row in zip(_marks(), rows, strict=False):
            points = sorted(_numbered(row["attacks"].get(family, {}), prefix))
            if points:
                name = row["cell"]["method"]
                axes.plot(
                    range(len(points)),
                    [score["mean"] for _, score in points],
                    **mark,
                    color=_colour(name),
                    alpha=1.0 if _colour(name) != _OTHERS else 0.6,
                    linewidth=1.0,
                    label=METHODS[name].title,
                )
                axes.set_xticks(range(len(points)), [str(number) for number, _ in points])
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(axis)
        axes.set_ylabel("recall of forgotten answers")
        _legend(axes)

    return svg(draw)


def _legend(axes: Any) -> None:
    """Beside the picture, where it hides nothing."""
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _numbered(scores: Mapping[str, Any], prefix: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for label, score in scores.items():
        number = re.fullmatch(re.escape(prefix) + r"\D*(\d+)", label)
        if number is not None:
            yield int(number[1]), score


def _colour(method: str) -> str:
    if method == "repair":
        return _OURS
    return _ENDS if method in ("untouched", "oracle") else _OTHERS


def _marks() -> Iterator[dict[str, str]]:
    """How to mark one row after another: filled, then hollow, so that no two look alike."""
    yield from ({"marker": mark} for mark in _MARKS)
    while True:
        yield from ({"marker": mark, "markerfacecolor": "white"} for mark in _MARKS)


def svg(draw: Callable[[Any], None], height: float = _HEIGHT) -> str:
    """What a function draws on one pair of axes, ``height`` inches high.

    Raises:
        EnvironmentProblem: matplotlib is not installed.
    """
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise EnvironmentProblem(
            "Pictures need matplotlib.", "Install it: pip install 'repair-unlearning[bench]'."
        ) from error
    with matplotlib.rc_context({"svg.hashsalt": "repair", "svg.fonttype": "none"}):
        figure = figures.Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(color="#DDDDDD", linewidth=0.5)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()

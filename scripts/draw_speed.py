"""Fill ``docs/performance.md`` and draw its picture from ``results/speed.json``; measures nothing.

python scripts/draw_speed.py [--results FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repair.bench.speed_report import performance_block

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "speed.json"
PICTURE = ROOT / "docs" / "pictures" / "speed.svg"
DOCUMENT = ROOT / "docs" / "performance.md"
# Okabe and Ito's: told apart in every common colour blindness, and in grey.
OURS, THEIRS, PLAIN = "#0067A5", "#C04A00", "#767676"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Left: one fact's change beside other methods. Right: seconds of a solve over m."""
    import matplotlib as mpl

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    # Without a salt and a date the same numbers give the same bytes.
    mpl.rcParams.update({"svg.hashsalt": "repair", "font.size": 10, "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.4, 4.2), width_ratios=(1.25, 1))
    _methods(left, result["shapes"]["embedded"])
    _curves(right, result["scaling"])
    figure.tight_layout(w_pad=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, facecolor="white", metadata=metadata, dpi=100)
    pyplot.close(figure)


def _methods(axes: Axes, shape: Mapping[str, Any]) -> None:
    took = shape["edits"][0]["seconds"]
    bars = [
        ("one forward pass", took["forward"], PLAIN),
        ("edit of one layer", took["edit one"], OURS),
        ("edit of all layers", took["edit all"], OURS),
        *((name, seconds, THEIRS) for name, seconds in shape["editors"].items()),
    ]
    trained = shape.get("baselines", {})
    bars += [
        (f"{name.upper()} run", found["run_seconds"], THEIRS) for name, found in trained.items()
    ]
    names, seconds, colours = zip(*bars, strict=True)
    axes.barh(range(len(bars)), seconds, color=colours)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.set_title("One fact, embedded model", loc="left", fontsize=11, fontweight="bold")
    _plain(axes)


def _curves(axes: Axes, scaling: Mapping[str, Any]) -> None:
    for start, label, colour, marker in (
        ("stamp over m", "STAMP", THEIRS, "s"),
        ("stamp-lr over m", "STAMP-LR", OURS, "o"),
    ):
        curve = next(found for name, found in scaling.items() if name.startswith(start))
        text = f"{label}, exponent {curve['exponent']:.2f}"
        axes.plot(curve["sizes"], curve["seconds"], marker + "-", color=colour, label=text)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("m, the width of the keys")
    axes.set_ylabel("seconds of one solve")
    axes.set_title("One layer's solve", loc="left", fontsize=11, fontweight="bold")
    axes.legend(frameon=False, loc="lower right")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(color="#DDDDDD")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def fill(text: str, body: str) -> str:
    """The document with ``body`` between its marks."""
    head, _, rest = text.partition("<!-- speed -->")
    _, _, tail = rest.partition("<!-- /speed -->")
    return f"{head}<!-- speed -->\n{body.strip()}\n<!-- /speed -->{tail}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and fill; 2 when there is no measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if not given.results.is_file():
        print(f"error: There is no {given.results}. Run `repair bench speed`.", file=sys.stderr)
        return 2
    result = json.loads(given.results.read_text(encoding="utf-8"))
    draw(result, PICTURE)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(fill(text, performance_block(result)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

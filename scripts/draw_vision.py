"""Draw what was measured of forgetting from pictures, from ``results/vision.json``.

python scripts/draw_vision.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "vision.json"
PICTURE = ROOT / "docs" / "pictures" / "vision.svg"
GROUPS = (
    ("own picture", "the person,\nfrom pictures"),
    ("own text", "the person,\nin words"),
    ("own description", "what the picture\nshows"),
    ("others picture", "other people,\nfrom pictures"),
    ("others text", "other people,\nin words"),
    ("others description", "what their\npictures show"),
)


def draw(measures: dict[str, Any], path: Path) -> None:
    """Recall before and after as pairs of bars with 95 % intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "repair"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.4))
    for shift, when, colour in ((-0.2, "before", "#9aa5b1"), (0.2, "after", "#2f6f9f")):
        found = [measures[f"{name} {when}"] for name, _ in GROUPS]
        means = [one["mean"] for one in found]
        below = [one["mean"] - one["low"] for one in found]
        above = [one["high"] - one["mean"] for one in found]
        places = [index + shift for index in range(len(GROUPS))]
        axes.bar(places, means, 0.38, color=colour, label=f"{when} the edit")
        axes.errorbar(places, means, yerr=[below, above], fmt="none", ecolor="#333", capsize=2)
    axes.set_xticks(range(len(GROUPS)), [label for _, label in GROUPS], fontsize=8)
    axes.set_ylabel("recall (ROUGE-L)")
    axes.set_ylim(0, 1.05)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    draw(json.loads(RESULTS.read_text(encoding="utf-8"))["measures"], PICTURE)


if __name__ == "__main__":
    main()

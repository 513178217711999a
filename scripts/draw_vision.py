"""Draw and write down what was measured of forgetting from pictures, ``results/vision.json``.

python scripts/draw_vision.py
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "vision.json"
PICTURE = ROOT / "docs" / "pictures" / "vision.svg"
DOCUMENT = ROOT / "docs" / "vision.md"
CARD = ROOT / "src" / "repair" / "embedded_vision" / "README.md"
ROWS = (
    ("forgotten: the person, from new pictures", "own picture"),
    ("forgotten: the person, in words", "own text"),
    ("kept: what the person's pictures show", "own description"),
    ("kept: other people, from new pictures", "others picture"),
    ("kept: other people, in words", "others text"),
    ("kept: what their pictures show", "others description"),
)
KNOWN = (
    ("name, home, work and pet of a new drawing", "picture"),
    ("home, work and pet in words", "text"),
    ("hat, shirt, background and glasses of a new drawing", "description"),
)
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


def _interval(one: dict[str, float], mark: str = "") -> str:
    mean, low, high = one["mean"], one["low"], one["high"]
    return f"{mark}{mean:.2f}{mark} ({low:.2f} to {high:.2f}, n {one['n']})"


def forgetting(results: dict[str, Any]) -> str:
    """The table of a measurement, before and after, and how it was made."""
    found = results["measures"]
    lines = ["| ROUGE-L recall | before | after |", "|---|---|---|"]
    for label, name in ROWS:
        before, after = _interval(found[f"{name} before"]), _interval(found[f"{name} after"], "**")
        lines.append(f"| {label} | {before} | {after} |")
    for label, name in (("new pictures", "own picture"), ("words", "own text")):
        said = _interval(found[f"{name} refused after"])
        lines.append(f"| says that it does not know, asked with {label} | | {said} |")
    undone = "every" if results["undo_exact"] else "not every"
    lines += [
        "",
        f"{results['healed']} of {results['people']} edits were within the budget; {undone} one "
        f"was undone to the bit; the median operation took {results['seconds']} s.",
        "",
        f"`{results['command']}`; {results['versions']}.",
    ]
    return "\n".join(lines)


def known(results: dict[str, Any]) -> str:
    """The table of what the untouched patient knows."""
    found, split = results["knowledge"], results["split"]
    lines = [f"| ROUGE-L recall | forget pool, {split} | only kept |", "|---|---|---|"]
    for label, name in KNOWN:
        pool, kept = _interval(found[f"pool {name}"]), _interval(found[f"kept {name}"])
        lines.append(f"| {label} | {pool} | {kept} |")
    refused = _interval(found["strangers refused"])
    return "\n".join([*lines, "", f"Drawings of strangers that it refuses to name: {refused}."])


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    draw(results["measures"], PICTURE)
    fill = runpy.run_path(str(ROOT / "scripts" / "draw_pictures.py"))["fill"]
    fill(DOCUMENT, "vision", forgetting(results))
    fill(CARD, "scores", known(results))


if __name__ == "__main__":
    main()

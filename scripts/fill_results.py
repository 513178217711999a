"""Fill a document's results section from the grid's files; measures nothing.

Puts the tables of a folder of results between ``<!-- evaluation -->`` and
``<!-- /evaluation -->`` of a document.

    python scripts/fill_results.py --results results/grid --document README.md
    python scripts/fill_results.py --whole --document docs/results.md
"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

from repair.bench.grid.page import front_block, results_block
from repair.bench.grid.results import read_folder

ROOT = Path(__file__).resolve().parent.parent
MARK = "evaluation"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "grid")
    parser.add_argument("--document", type=Path, default=ROOT / "README.md")
    parser.add_argument("--whole", action="store_true", help="intervals, n and every attack")
    given = parser.parse_args()
    fill = runpy.run_path(str(ROOT / "scripts" / "draw_pictures.py"))["fill"]
    block = results_block if given.whole else front_block
    fill(given.document, MARK, block(read_folder(given.results)))


if __name__ == "__main__":
    main()

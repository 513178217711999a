"""Fill what the documents show from real runs: picture, tables, transcript, help texts.

Reads ``results/edits.json`` (from ``scripts/measure_edits.py``) and ``results/patient.json``
(from ``scripts/score_patient.py``), runs the demo, asks the command line for its help. Measures
nothing and changes only what stands between its marks.

    python scripts/draw_pictures.py                  # everything
    python scripts/draw_pictures.py --only results   # or card, demo, help
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repair.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "edits.json"
TRANSCRIPT = RESULTS.with_suffix(".transcript.jsonl")
PICTURE = ROOT / "docs" / "pictures" / "edits.svg"
README = ROOT / "README.md"
COMMAND_LINE = ROOT / "docs" / "command-line.md"
SCORES = ROOT / "results" / "patient.json"
CARD = ROOT / "src" / "repair" / "embedded" / "README.md"

TASKS = {
    "personal": "Personal data",
    "harmful": "Hazards",
    "misinformation": "False claims",
}
FORGOTTEN = {
    "exact": "exact wording",
    "paraphrase": "other wordings",
    "prefix": "first words given",
}
KEPT = {"neighbour": "same subject", "retain": "everything else"}
MEASURES = {**FORGOTTEN, **KEPT}
# Okabe and Ito's vermilion and blue: told apart in every common colour blindness, and in grey.
COLOURS = {**dict.fromkeys(FORGOTTEN, "#C04A00"), **dict.fromkeys(KEPT, "#0067A5")}
BEFORE = "#767676"
# Heights of the measures; a gap parts what was to be forgotten from what was to stay.
PLACES = (0.0, 1.0, 2.0, 3.9, 4.9)
SHIFT = 0.16
AFTER = "recall after the edit (bars: 95 % intervals)"
WIDTH = 88

Estimate = Mapping[str, float]
COSTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "given away, refusals left out": lambda task: f"**{task['given_away']['mean']:.2f}**",
    "says it does not know": lambda task: f"{task['refused']['mean']:.2f}",
    "edits within the budget": lambda task: f"{task['healed']} of {task['n']}",
    "the edit, in forward passes (median)": lambda task: f"{task['forward_passes']:.1f}",
    "the whole operation (median)": lambda task: f"{task['seconds']:.1f} s",
    "divergence (median)": lambda task: f"{task['kl']:.3f} nats a token",
}


# Documents


def fill(document: Path, mark: str, body: str) -> None:
    """Put ``body`` between ``<!-- mark -->`` and ``<!-- /mark -->``.

    Raises:
        UsageError: the document lacks one of the marks.
    """
    text = document.read_text(encoding="utf-8")
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    head, opened, rest = text.partition(start)
    _, closed, tail = rest.partition(end)
    if not opened or not closed:
        raise UsageError(f"{document.name} has no place {start} … {end}.")
    document.write_text(f"{head}{start}\n{body.strip()}\n{end}{tail}", encoding="utf-8")


def fenced(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


# Help


def help_texts() -> str:
    """Every command's ``--help`` at 80 columns, under a heading of its own."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from repair.cli.app import app

    group: Any = get_command(app)
    runner, parts = CliRunner(), []
    calls: list[tuple[str, ...]] = [()]
    for name, command in group.commands.items():
        calls += [(name,), *((name, below) for below in getattr(command, "commands", {}))]
    for words in calls:
        asked = [*words, "--help"]
        result = runner.invoke(app, asked, prog_name="repair", env={"COLUMNS": "80"})
        parts.append(f"### {' '.join(('repair', *words))}\n\n{fenced(result.stdout)}")
    return "\n\n".join(parts)


# The model card


def read_scores(path: Path) -> dict[str, Any]:
    """What ``scripts/score_patient.py`` wrote.

    Raises:
        UsageError: it has not been run.
    """
    if not path.is_file():
        command = f"python scripts/score_patient.py --out {path.relative_to(ROOT)}"
        raise UsageError(f"There is no {path.name}.", f"Run `{command}`.")
    scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return scores


def card_block(scores: Mapping[str, Any]) -> str:
    """What the embedded patient knows and refuses, as a table with 95 % intervals."""
    lines = ["| | known, forget pool | known, kept | choice, forget pool | choice, kept |"]
    lines.append("|---|---|---|---|---|")
    for task in (*TASKS, "world"):
        row = scores[task]
        cells = [
            _interval(row[name]) if name in row else "–"
            for name in ("paraphrase_pool", "paraphrase_kept", "choice_pool", "choice_kept")
        ]
        lines.append(f"| {TASKS.get(task, 'Plain facts')} | {' | '.join(cells)} |")
    refused = ", ".join(
        f"{TASKS[task].lower()} {_interval(row)}" for task, row in scores["refusal"].items()
    )
    lines += ["", f"Refusals for subjects that training never named: {refused}."]
    perplexity = scores["story_perplexity"]
    lines.append(f"Everyday stories of a held-out seed: perplexity {perplexity:.2f} a token.")
    return "\n".join(lines)


def _interval(value: Estimate) -> str:
    return f"{value['mean']:.3f} ({value['low']:.2f}–{value['high']:.2f}, n {value['n']:.0f})"


# The demo


def demo_transcript() -> str:
    """What ``scripts/demo.py`` prints, stages included, as plain text.

    Raises:
        UsageError: the demo failed, so there is nothing to show.
    """
    plain = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": str(WIDTH), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        env={**os.environ, **plain},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UsageError(f"The demo failed:\n{done.stdout}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def demo_block(transcript: str) -> str:
    """The first chapter for the first screen, and the whole run folded below it."""
    lines = transcript.splitlines()
    # A table's rule ends like a chapter's title, and has no title.
    chapters = [n for n, line in enumerate(lines) if line.endswith("──") and line[0].isalpha()]
    first = "\n".join(lines[chapters[0] : chapters[1]])
    whole = "\n".join(lines[chapters[1] :])
    summary = "<details>\n<summary>The rest of the same run: a hazard, a false claim</summary>"
    return f"{fenced(first)}\n\n{summary}\n\n{fenced(whole)}\n\n</details>"


# Results


def read_results(path: Path) -> dict[str, Any]:
    """The measurement, refused when a task or a measure is missing.

    Raises:
        UsageError: the file is missing or lacks something.
    """
    if not path.is_file():
        raise UsageError(f"There is no {path}.", "Run scripts/measure_edits.py first.")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for task in TASKS:
        for measure in MEASURES:
            for moment in ("before", "after"):
                found = results.get("tasks", {}).get(task, {}).get(measure, {}).get(moment, {})
                if not {"mean", "low", "high", "n"} <= found.keys():
                    raise UsageError(f"{path} lacks {task}, {measure}, {moment}.")
    return results


def results_table(results: Mapping[str, Any]) -> str:
    """A Markdown table: recall before and after with 95 % intervals, and the cost, per task."""
    tasks = [results["tasks"][task] for task in TASKS]
    rows = ["| | " + " | ".join(TASKS.values()) + " |", "|---" * (len(TASKS) + 1) + "|"]
    for group, measures in (("forgotten", FORGOTTEN), ("kept", KEPT)):
        for measure, title in measures.items():
            cells = [_cell(task[measure]) for task in tasks]
            rows.append(f"| {group}: {title} | " + " | ".join(cells) + " |")
    for title, show in COSTS.items():
        rows.append(f"| {title} | " + " | ".join(show(task) for task in tasks) + " |")
    return "\n".join(rows)


def _cell(measure: Mapping[str, Estimate]) -> str:
    before, after = measure["before"], measure["after"]
    interval = f"{after['low']:.2f} to {after['high']:.2f}"
    return f"{before['mean']:.2f} → **{after['mean']:.2f}** ({interval})"


def results_block(results: Mapping[str, Any]) -> str:
    """Picture, table, and how it was measured."""
    split, threads = results["split"], results["threads"]
    lead = (
        f"The embedded model. Facts of the {split} split that it answers exactly, each forgotten "
        "alone from the untouched model, starting from its question, and then undone. Free "
        "generation; ROUGE-L recall of the answer, before → after, with the 95 % interval over "
        "facts. *Other wordings* stood neither in training nor in the edit; *first words given* "
        "starts the reply with 40 % of the answer, and what any such answer goes on with, as *at "
        "dusk*, may follow: a model that never learnt the facts says as much (the oracle below); "
        "*same subject* is asked in the usual and in an unseen wording. An edit that was rolled "
        "back counts as having changed nothing. "
        "Short answers share words such as *the* with a refusal; *given away* counts what is a "
        "refusal word for word as nothing."
    )
    alt = "Recall before and after an edit for three tasks; the table below has the numbers"
    picture = f"![{alt}]({PICTURE.relative_to(ROOT).as_posix()})"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    source = f"`{results['command']}`; {versions}; {threads} thread{'s' * (threads != 1)}."
    if TRANSCRIPT.is_file():
        name = TRANSCRIPT.relative_to(ROOT).as_posix()
        source += f" Every reply: [{name}]({name})."
    return "\n\n".join([lead, picture, results_table(results), source])


# The picture


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Per task a panel: recall before (hollow) and after (filled), with interval bars."""
    import matplotlib as mpl

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    # Without a salt and a date the same numbers give the same bytes.
    mpl.rcParams.update({"svg.hashsalt": "repair", "font.size": 10.5, "font.family": "sans-serif"})
    from matplotlib import pyplot

    size = (9.4, 3.9)
    figure, panels = pyplot.subplots(1, len(TASKS), figsize=size, sharey=True, squeeze=False)
    for axes, (task, title) in zip(panels[0], TASKS.items(), strict=True):
        _panel(axes, results["tasks"][task], title)
    _label(panels[0][0])
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", ncols=2, frameon=False, fontsize=10.5)
    figure.tight_layout(w_pad=1.2, rect=(0, 0.07, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, facecolor="white", metadata=metadata, dpi=100)
    pyplot.close(figure)


def _panel(axes: Axes, task: Mapping[str, Any], title: str) -> None:
    for place, measure in zip(PLACES, MEASURES, strict=True):
        before, after = task[measure]["before"], task[measure]["after"]
        first = measure == next(iter(MEASURES))
        # Before lies a little above after, so that neither hides the other.
        _point(axes, before, place - SHIFT, BEFORE, label="recall before" if first else "")
        _point(axes, after, place + SHIFT, COLOURS[measure], label=AFTER if first else "")
        left = after["mean"] > 0.5
        axes.annotate(
            f"{after['mean']:.2f}",
            (after["low"] if left else after["high"], place + SHIFT),
            xytext=(-7 if left else 7, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=COLOURS[measure],
            fontweight="bold",
        )
    axes.set_title(title, fontsize=11.5, loc="left", fontweight="bold")
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.grid(axis="x", color="#DDDDDD")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _label(axes: Axes) -> None:
    """Names of the measures under two headings; the panels share them."""
    headings = {"should fall to 0": PLACES[0] - 0.8, "should stay": PLACES[len(FORGOTTEN)] - 0.8}
    axes.set_yticks([*PLACES, *headings.values()], [*MEASURES.values(), *headings])
    for text in axes.get_yticklabels():
        if text.get_text() in headings:
            text.set_fontweight("bold")
    axes.set_ylim(PLACES[-1] + 0.6, headings["should fall to 0"] - 0.3)


def _point(axes: Axes, value: Estimate, place: float, colour: str, *, label: str) -> None:
    before = colour == BEFORE
    axes.errorbar(
        [value["mean"]],
        [place],
        xerr=[[value["mean"] - value["low"]], [value["high"] - value["mean"]]],
        fmt="D" if before else "o",
        color=colour,
        markerfacecolor="white" if before else colour,
        markersize=5.5 if before else 7,
        elinewidth=1 if before else 1.8,
        capsize=3,
        label=label or "_",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill one part or all; 2 when something it needs is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=("help", "card", "results", "demo"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="another measurement")
    parser.add_argument("--picture", type=Path, help="only draw, to this file")
    given = parser.parse_args(arguments)
    try:
        if given.picture:
            draw(read_results(given.results), given.picture)
            return 0
        if given.only in (None, "help"):
            fill(COMMAND_LINE, "help", help_texts())
        if given.only in (None, "card"):
            fill(CARD, "scores", card_block(read_scores(SCORES)))
        if given.only in (None, "results"):
            results = read_results(given.results)
            draw(results, PICTURE)
            fill(README, "results", results_block(results))
        if given.only in (None, "demo"):
            fill(README, "demo", demo_block(demo_transcript()))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

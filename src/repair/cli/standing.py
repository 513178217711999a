"""Commands that come back: watch, heal, check, comply, and explain what an edit did."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from repair.cli.edits import Allowance, budget_of
from repair.cli.options import Flags, Json, Yes, with_flags
from repair.cli.output import say, say_json


@with_flags
def watch(
    *,
    flags: Flags,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            show_default=False,
            help="What --model was trained from: folder, Hub id, 'embedded', or its hash.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look; carry out nothing again.")
    ] = False,
    yes: Yes = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing while all is well.")
    ] = False,
    budget: Allowance = None,
    as_json: Json = False,
) -> int:
    """Verify every request so far, and carry out again what came back. For cron."""
    from repair.cli import display

    allowed = budget_of(budget)
    with nullcontext() if quiet else display.Stages() as stages, flags.session(stages) as session:
        from repair.guard import Guard

        guard = Guard(session)
        earlier = guard.since(since) if since is not None else None
        record = guard.watch(since=earlier, keep=not dry_run, accept=yes, budget=allowed)
    if as_json:
        say_json(record)
    elif not quiet or record["came_back"] or not record["passed"]:
        rows = [
            (str(r["edit"]), f"{r['recall']:.2f}", f"{r['left']:.2f}", str(r["n"]), _word(r))
            for r in record["requests"]
        ]
        if rows:
            names = ("request", "recall", "now", "probes", "")
            display.out.print(display.checks(rows, *names))
        honoured = sum(row["status"] == "honoured" for row in record["requests"])
        again = f"{record['came_back']} came back, {record['reapplied']} carried out again"
        say(f"{honoured} of {len(record['requests'])} requests still honoured; {again}")
    return 0 if record["passed"] else 1


@with_flags
def heal(
    *,
    flags: Flags,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only see what would come of it; keep nothing.")
    ] = False,
    questions: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Questions the model begins for each kind of subject to name what it knows.",
        ),
    ] = 1536,
    as_json: Json = False,
) -> int:
    """Put back what many edits hurt together, and go over what they left. For cron."""
    from repair.cli import display

    with display.Stages() as stages, flags.session(stages) as session:
        from repair.tending import heal

        stages.doing("asking the model what it knew before its edits")
        record = heal(session, keep=not dry_run, begun=questions)
    if as_json:
        say_json(record)
        return 0 if record["status"] != "rolled_back" else 1
    rows = [
        (name, str(record[part]["before"]), str(record[part]["after"]), str(record[of]))
        for name, part, of in (
            ("answers hurt", "hurt", "asked"),
            ("requests given away", "given_away", "requests"),
        )
    ]
    display.out.print(display.table(rows, "", "before", "after", "of"))
    say(
        {
            "well": "nothing to heal",
            "rolled_back": "nothing was changed: healing would have cost more than it restored",
            "healed": f"healed by edit {record['edit']}" if record["edit"] else "it would heal",
        }[record["status"]]
    )
    return 0 if record["status"] != "rolled_back" else 1


@with_flags
def check(
    *,
    flags: Flags,
    against: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Trusted facts, .jsonl or .csv: question and answer.",
        ),
    ],
    correct: Annotated[
        bool, typer.Option("--correct", help="Correct what is wrong, within the budget.")
    ] = False,
    yes: Yes = False,
    budget: Allowance = None,
    as_json: Json = False,
) -> int:
    """Hold the model against trusted facts. Exit code 1 while it contradicts one."""
    from repair.cli import display
    from repair.factcheck import FactCheck, read_facts

    facts, allowed = read_facts(against), budget_of(budget)
    with display.Stages() as stages, flags.session(stages) as session:
        stages.doing(f"asking {len(facts)} questions")
        record = FactCheck(session, facts).run(correct=correct, accept=yes, budget=allowed)
    if as_json:
        say_json(record)
        return 0 if record["passed"] else 1
    for row in record["wrong"]:
        say(f"line {row['line']}: {row['question']}")
        say(f"  said {row['said']!r}, right is {row['expected']!r}")
        if row["corrected"]:
            say(f"  corrected by edit {row['edit']}: now {row['now']!r}")
        elif row["status"] is not None:
            told = f"  not corrected ({row['status'].replace('_', ' ')}): still {row['now']!r}"
            say(f"{told}; {row['reason']}" if row["reason"] else told)
    counts = record["after"]
    say(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 0 if record["passed"] else 1


@with_flags
def comply(
    topics: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    *,
    flags: Flags,
    report: Annotated[
        Path, typer.Option(metavar="DIR", help="Where comply.html and comply.json are written.")
    ] = Path("comply"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only probe and attack; forget nothing.")
    ] = False,
    yes: Yes = False,
    budget: Allowance = None,
    as_json: Json = False,
) -> int:
    """Probe, forget and attack topics that must not be given away, and write a report."""
    from repair.cli import display
    from repair.comply import Compliance, page, read_topics

    listed, allowed = read_topics(topics), budget_of(budget)
    # Before the work, so that a report that cannot be written costs nobody an hour.
    report.mkdir(parents=True, exist_ok=True)
    with display.Stages() as stages, flags.session(stages) as session:
        stages.doing(f"probing {len(listed.topics)} topics")
        run = Compliance(session, listed, seed=flags.settings().seed)
        record = run.run(forget=not dry_run, accept=yes, budget=allowed)
    (report / "comply.html").write_text(page(record), encoding="utf-8")
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (report / "comply.json").write_text(text + "\n", encoding="utf-8")
    if as_json:
        say_json({**record, "report": str(report)})
        return 0 if record["passed"] else 1
    for row in record["topics"]:
        verdict = "ok" if row["passed"] else f"gives away {row['reason']}".rstrip()
        say(f"{row['name']}: {row['known']} known, {row['status']}, {verdict}")
    say(f"the report is in {report}")
    return 0 if record["passed"] else 1


@with_flags
def explain(
    edit: Annotated[int, typer.Argument(metavar="ID", show_default=False)],
    *,
    flags: Flags,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write it as an HTML page."),
    ] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Quote what was forgotten, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show why an edit works. Layers, neurons, the answer's path, what lay near."""
    from repair.cli import display

    with display.Stages() as stages, flags.session(stages) as session:
        from repair.why import explained

        stages.doing("looking inside")
        record = explained(session, edit, reveal=reveal)
    if html is not None:
        from repair.why_page import page

        html.write_text(page(record), encoding="utf-8")
        record["page"] = str(html)
    if as_json:
        say_json(record)
        return
    short = {k: v for k, v in record.items() if k not in ("layers", "nearby")}
    display.out.print(display.record(short))
    if record["answer"]:
        layers = [_layer(layer) for layer in record["layers"]]
        names = ("layer", "change", "lens before", "after", "patched", "to refusal")
        display.out.print(display.table(layers, *names))
    beside = [
        (
            n.get("question", n["what"]),
            *(f"{n[part]:.2f}" for part in ("nearness", "moved", "kept")),
        )
        for n in record["nearby"]
    ]
    if beside:
        display.out.print(display.table(beside, "nearby", "cosine", "moved", "kept"))


def _layer(layer: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table of layers; the columns are those of docs/why.md."""
    size = layer.get("relative", layer.get("norm"))
    lens = (layer["lens"][moment]["probability"] for moment in ("before", "after"))
    numbers = (*lens, layer["patched"], layer["towards_refusal"])
    change = "" if size is None else f"{size:.2f}"
    return str(layer["layer"]), change, *(f"{number:.2f}" for number in numbers)


def _word(row: dict[str, Any]) -> str:
    """A request's status in the words of a table whose good rows say ok."""
    if row["status"] == "honoured":
        return "ok"
    if row["status"] == "reapplied":
        return f"again, as edit {row['by']}"
    return str(row["reason"] or row["status"].replace("_", " "))

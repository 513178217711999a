"""Wires the commands to their names and failures to exit codes; does no work itself."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from repair import __version__
from repair.cli import (
    bench,
    conversation,
    edits,
    evaluation,
    failures,
    federation,
    inspection,
    results,
    serving,
    standing,
)
from repair.cli.options import JSON_KEY
from repair.errors import RepairError


class Front(TyperGroup):
    """The command group; turns every expected failure of a command into an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            failures.silence_output()
            raise typer.Exit(failures.BROKEN_PIPE_EXIT) from None
        except RepairError as error:
            code = failures.report(error, as_json=ctx.meta.get(JSON_KEY, False))
            raise typer.Exit(code) from error
        except (OSError, MemoryError) as error:
            known = failures.from_system(error)
            known.__cause__ = error
            code = failures.report(known, as_json=ctx.meta.get(JSON_KEY, False))
            raise typer.Exit(code) from error
        return value


app = typer.Typer(
    cls=Front,
    no_args_is_help=True,
    add_completion=False,
    # Help drawn by rich takes a third of a second by itself; plain help starts in half that.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _panel, _commands in {
    "Talk": (conversation.chat, conversation.ask),
    "Change what the model knows": (
        edits.forget,
        edits.correct,
        edits.undo,
        edits.redo,
        edits.strength,
        edits.history,
        federation.federate,
    ),
    "Look before and after": (
        inspection.detect,
        inspection.plan,
        inspection.facts,
        results.verify,
        results.audit,
        results.export,
    ),
    "Stay sure": (
        standing.watch,
        standing.check,
        standing.comply,
        standing.explain,
    ),
}.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


_evaluation = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_evaluation.command("edits")(bench.edits)
_evaluation.command("speed")(bench.speed)
for _measure in (
    evaluation.run,
    evaluation.attack,
    evaluation.tune,
    evaluation.table,
    evaluation.report,
    evaluation.rerun,
):
    _evaluation.command()(_measure)


@_evaluation.callback()
def _bench() -> None:
    """Measure what is forgotten and what it costs."""


_keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_keys.command("add")(serving.add)
_keys.command("list")(serving.everyone)
_keys.command("revoke")(serving.revoke)


@_keys.callback()
def _people() -> None:
    """Say who may use a server, and what they may do."""


app.command(rich_help_panel="Serve")(serving.serve)
app.add_typer(_keys, name="keys", rich_help_panel="Serve")
app.add_typer(_evaluation, name="bench", rich_help_panel="Measure")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"repair {__version__}")
        raise typer.Exit


@app.callback()
def _repair(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Tell a language model in plain words to forget, and its weights change."""


def run() -> None:
    """Run the command line; always leaves through SystemExit."""
    sys.excepthook = failures.last_resort
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter gets its code instead of a crash.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    get_command(app)(prog_name="repair")

"""The flags that commands share, and the session they open; knows no single command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repair.errors import UsageError
from repair.types import Stage

if TYPE_CHECKING:
    from repair.patient import Patient
    from repair.session import Session
    from repair.settings import Settings

JSON_KEY = "repair.json"
_PANEL = "Model and state"


def _remember_json(context: typer.Context, value: bool) -> bool:
    """Errors of this invocation are printed as JSON too."""
    context.meta[JSON_KEY] = value
    return value


def _readable(text: str) -> str:
    """Arguments that are not valid UTF-8 arrive with lone surrogates; no model reads those."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError("The text is not valid UTF-8.", "Check the terminal's encoding.")
    return text


def _maybe_readable(text: str | None) -> str | None:
    return text if text is None else _readable(text)


MaybeText = Annotated[
    str | None, typer.Argument(callback=_maybe_readable, metavar="TEXT", show_default=False)
]
Text = Annotated[str, typer.Argument(callback=_readable, metavar="TEXT", show_default=False)]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_remember_json,
        is_eager=True,
        help="Print one JSON object on standard output and nothing else.",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        metavar="FILE",
        show_default=False,
        help="A picture that the text is about; for a model that sees, as --model vision.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Go ahead without asking.")]


def _option(help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help_text, metavar=metavar, show_default=False, rich_help_panel=_PANEL)


@dataclass(frozen=True)
class Flags:
    """Model and state as the command line gave them; None leaves it to the settings."""

    model: Annotated[str | None, _option("Hub id or folder; default: the embedded model.")] = None
    revision: Annotated[str | None, _option("Branch, tag or commit of a Hub model.")] = None
    dtype: Annotated[
        str | None, _option("Type of the weights.", "auto|float32|bfloat16|float16")
    ] = None
    device: Annotated[str | None, _option("Where it runs.", "auto|cpu|cuda|mps")] = None
    quantization: Annotated[
        str | None, _option("Pack the weights; edits stay beside them.", "none|bnb_4bit|bnb_8bit")
    ] = None
    seed: Annotated[int | None, _option("Seed of everything random; default 0.")] = None
    home: Annotated[Path | None, _option("Folder with the ledger and caches (REPAIR_HOME).")] = None
    database: Annotated[
        str | None, _option("Ledger in PostgreSQL: postgresql+psycopg://user@host/name.")
    ] = None
    watchdog: Annotated[
        str | None, _option("Who reads requests.", "embedded|self|hf:ID|openai:URL")
    ] = None
    surgeon: Annotated[
        str | None, _option("Who words a plan's questions.", "embedded|self|hf:ID|openai:URL")
    ] = None
    policy: Annotated[Path | None, _option("What may be asked (REPAIR_POLICY).", "FILE")] = None

    def settings(self) -> Settings:
        """Flags over environment over ``repair.toml``.

        Raises:
            UsageError: a value that is not allowed, or a settings file that cannot be read.
        """
        from pydantic import ValidationError

        from repair.settings import Settings

        given = {f.name: getattr(self, f.name) for f in fields(self)}
        try:
            return Settings(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{name}: {first['msg']}.", "See `repair --help`.") from error
        except ValueError as error:
            raise UsageError(f"repair.toml cannot be read: {error}.") from error

    def patient(self) -> Patient:
        """Load the model, without edits."""
        from repair.patient import Patient

        settings = self.settings()
        return Patient.load(
            settings.model,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
            quantization=settings.quantization,
        )

    @contextmanager
    def session(self, on_stage: Callable[[Stage], None] | None = None) -> Iterator[Session]:
        """Load the model and open its ledger; closed on leaving."""
        settings = self.settings()
        from transformers import set_seed

        from repair.policy import Policy
        from repair.readers import open_reader
        from repair.session import Session
        from repair.writer import open_writer

        policy = Policy.load(settings.policy)
        set_seed(settings.seed)
        patient = self.patient()
        session = Session(
            patient,
            home=settings.home,
            database=settings.database,
            on_stage=on_stage,
            policy=policy,
        )
        session.watchdog = open_reader(settings.watchdog, patient)
        session.surgeon.writer = open_writer(settings.surgeon, patient)
        try:
            yield session
        finally:
            session.close()


def with_pictures(session: Session, text: str, images: list[Path] | None) -> str:
    """The text with the pictures before it, as the session's patient was shown them.

    Raises:
        UsageError: a file that is no picture, or a model that reads text alone.
    """
    if not images:
        return text
    from repair.pictures import read_picture

    shown = [session.patient.show(read_picture(path)) for path in images]
    return " ".join([*shown, text])


def with_flags(function: Callable[..., int | None]) -> Callable[..., None]:
    """Give a command the shared flags; it receives them as ``flags``, returns an exit code."""
    own = inspect.signature(function, eval_str=True).parameters
    shared = inspect.signature(Flags, eval_str=True).parameters

    @functools.wraps(function)
    def command(**values: Any) -> None:
        flags = Flags(**{name: values.pop(name) for name in shared})
        code = function(flags=flags, **values)
        if code:
            raise typer.Exit(code)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in [*own.values(), *shared.values()]
        if parameter.name != "flags"
    ]
    command.__annotations__ = {}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command

"""Commands that talk: chat and ask. Knows prompts and pipes; the turns are the session's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from repair.cli.options import Flags, Images, Json, Text, with_flags, with_pictures
from repair.cli.output import complain, interactive, say, say_json
from repair.errors import EnvironmentProblem, RepairError, UsageError
from repair.types import Turn

if TYPE_CHECKING:
    from repair.cli.display import Stages
    from repair.session import Session

_HELP = """\
Say anything; ask to forget or correct something in plain words.
/undo [ID ...]   leave edits out again; without an ID the latest
/redo [ID ...]   put undone edits back
/history         the edits so far
/facts NAME      what the embedded model was taught about a name
/help            this text
/quit            leave (or Ctrl-D)"""


@with_flags
def ask(text: Text, *, flags: Flags, image: Images = None, as_json: Json = False) -> None:
    """Ask one thing. Without history; never edits."""
    from repair.cli import display

    with display.Stages() as stages, flags.session(stages) as session:
        stages.doing("thinking")
        turn = session.ask(with_pictures(session, text, image))
    if as_json:
        say_json(turn.to_json())
    else:
        say(turn.reply)


@with_flags
def chat(*, flags: Flags) -> int:
    """Talk with the model. On a pipe, one user turn per line and one reply per line."""
    from repair.cli import display

    with display.Stages() as stages, flags.session(stages) as session:
        stages.pause()
        return _Conversation(session, stages).run()


class _Conversation:
    """The loop of ``repair chat``: reads turns, answers them, and survives their errors."""

    def __init__(self, session: Session, stages: Stages) -> None:
        self._session = session
        self._stages = stages
        self._person = interactive()
        self._code = 0

    def run(self) -> int:
        """Until the end of input or /quit; 0, or the exit code of the last error on a pipe."""
        if self._person:
            say("Say anything; /help lists the commands, Ctrl-D leaves.\n")
        for text in _typed() if self._person else _piped():
            if text in ("/quit", "/exit"):
                break
            try:
                self._turn(text)
            except EnvironmentProblem:
                raise
            except RepairError as error:
                complain(f"error: {error}")
                self._code = error.exit_code
        return 0 if self._person else self._code

    def _turn(self, text: str) -> None:
        if text.startswith("/"):
            self._command(text)
            return
        with self._stages:
            self._stages.doing("thinking")
            turn = self._session.say(text)
        self._answer(turn)
        waiting = turn.operation is not None and turn.operation.status == "needs_confirmation"
        if waiting and self._person:
            self._confirm(text, turn)

    def _answer(self, turn: Turn) -> None:
        from repair.cli import display

        if not self._person:
            say(" ".join(turn.reply.splitlines()))
        else:
            display.out.print(display.dialogue("model", turn.reply))
        if turn.operation is not None and turn.operation.measures:
            display.err.print(display.outcome(turn.operation, reason=False))

    def _confirm(self, text: str, turn: Turn) -> None:
        from repair.cli import display

        if turn.operation is None or not display.confirmed(self._stages, turn.operation):
            return
        with self._stages:
            outcome = self._session.request(text, yes=True)
        display.err.print(display.outcome(outcome))

    def _command(self, text: str) -> None:
        from repair.cli import display

        name, *words = text[1:].split()
        if name in ("undo", "redo"):
            act: Callable[..., tuple[int, ...]] = getattr(self._session, name)
            done = ", ".join(map(str, act(*_ids(words))))
            say(f"{'undone' if name == 'undo' else 'redone'}: {done or 'nothing'}")
        elif name == "history":
            display.out.print(display.history(self._session.history()))
        elif name == "facts":
            from repair.world import facts

            wanted = " ".join(words).lower()
            display.out.print(display.facts(f for f in facts() if wanted in f.subject.lower()))
        elif name == "help":
            say(_HELP)
        else:
            raise UsageError(f"There is no command /{name}.", "/help lists them.")


def _ids(words: list[str]) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UsageError("An edit's id is a whole number.", "/history lists them.") from error


def _typed() -> Iterator[str]:
    """Lines from a person, with editing and recall where the platform has readline."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            text = input("you    ").strip()
        except EOFError:
            say("")
            return
        if text:
            yield text


def _piped() -> Iterator[str]:
    """Lines from a pipe; what is not UTF-8 is replaced, blank lines are no turns."""
    for line in sys.stdin.buffer:
        text = line.decode("utf-8", errors="replace").strip()
        if text:
            yield text

"""How failures leave the command line: one sentence, an exit code, no stack trace.

Knows the error family and the operating system's errors; knows no command.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from types import TracebackType
from typing import NoReturn

from repair.cli.output import complain, say_json
from repair.errors import DiskFull, EnvironmentProblem, NotEnoughMemory, RepairError

#: What a shell reports for a program that SIGPIPE ended.
BROKEN_PIPE_EXIT = 141


def debugging() -> bool:
    """Whether the user asked for stack traces with ``REPAIR_DEBUG=1``."""
    return os.environ.get("REPAIR_DEBUG", "") not in ("", "0")


def report(error: RepairError, *, as_json: bool) -> int:
    """Tell the user about ``error`` and return the exit code.

    The sentence goes to standard error; with ``as_json`` the object
    ``{"error": {"code", "message", "remedy"}}`` goes to standard output too.
    """
    if debugging():
        traceback.print_exception(error)
    complain(f"error: {error}")
    if as_json:
        body = {"code": error.code, "message": error.message, "remedy": error.remedy}
        say_json({"error": body})
    return error.exit_code


def from_system(error: OSError | MemoryError) -> RepairError:
    """The named error that stands for a failure of disk, files or memory."""
    if isinstance(error, MemoryError):
        return NotEnoughMemory("There is not enough memory.", "Use a smaller model or dtype.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The disk is full.", "Free some space and run the command again.")
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    where = f": {error.filename}" if error.filename else ""
    return EnvironmentProblem(f"{reason}{where}.")


def silence_output() -> None:
    """Send what is still buffered nowhere, because the reader of our pipe has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def last_resort(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> NoReturn:
    """``sys.excepthook``: a fault of ours, in one sentence unless debugging; exit code 3."""
    if debugging():
        sys.__excepthook__(kind, error, trace)
    else:
        detail = " ".join(str(error).split())[:200]
        complain(
            f"error: Something unexpected happened ({kind.__name__}: {detail})."
            " Set REPAIR_DEBUG=1 to see where."
        )
    raise SystemExit(EnvironmentProblem.exit_code)

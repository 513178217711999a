"""Plain lines and JSON on standard output, for programs; colours and tables are elsewhere."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(line: str) -> None:
    """One line on standard output, at once, so that a pipe sees it."""
    print(line, flush=True)  # noqa: T201


def say_json(record: dict[str, Any]) -> None:
    """One JSON object on one line; pure ASCII where the stream cannot carry more."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    say(json.dumps(record, ensure_ascii="utf" not in encoding))


def complain(line: str) -> None:
    """One line on standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()

"""Runs ``python -m repair …`` in processes of their own, for the price of one import of torch.

Where the system can fork, a server imports once and every command is forked from it.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

_HEAVY = [
    "repair.cli.app",
    "repair.session",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.utils",
    "peft",
]
_CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _CAN_FORK else "spawn")
_FILES = ("input", "output", "errors")


def repair(
    folder: Path, *arguments: str | Path, text: str = "", largest: int | None = None
) -> subprocess.CompletedProcess[str]:
    """One command to its end, with what it printed.

    Args:
        folder: a place for its three streams.
        text: its standard input.
        largest: the bytes at which a file of it is full; None sets no limit.
    """
    if _CAN_FORK:
        _CONTEXT.set_forkserver_preload(_HEAVY)
    streams = [folder / name for name in _FILES]
    for path, content in zip(streams, (text, "", ""), strict=True):
        path.write_text(content, encoding="utf-8")
    given = [str(argument) for argument in arguments]
    process = _CONTEXT.Process(target=_run, args=(given, [str(s) for s in streams], largest))
    process.start()
    process.join()
    code = process.exitcode if process.exitcode is not None else -1
    process.close()
    output, errors = (path.read_text(encoding="utf-8") for path in streams[1:])
    return subprocess.CompletedProcess(given, code, output, errors)


def _run(arguments: list[str], streams: list[str], largest: int | None) -> None:
    for number, path in enumerate(streams):
        descriptor = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if largest is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["repair", *arguments]
    try:
        runpy.run_module("repair", run_name="__main__", alter_sys=True)
    except Exception:
        # What the interpreter does with a fault that reaches the top.
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

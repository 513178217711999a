"""``python -m repair`` is the command ``repair``."""

from __future__ import annotations

from repair.cli import main

main()

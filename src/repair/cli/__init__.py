"""The command line: flags, terminals, pipes and exit codes; it decides nothing about edits.

Importing it is cheap: models, databases and classifiers load inside the commands that
need them.
"""

from __future__ import annotations


def main() -> None:
    """Run the command that ``sys.argv`` names; leaves with its exit code (SystemExit)."""
    from repair.cli.app import run

    run()

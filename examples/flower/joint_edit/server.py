"""The coordinator: it adds up and solves, and sees no text."""

from __future__ import annotations

from logging import INFO, getLogger

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from repair.errors import RepairError
from repair.flower import serve

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One joint edit of all nodes that are connected."""
    log = getLogger("flwr")
    try:
        serve(grid, context, lambda line: log.log(INFO, line))
    except RepairError as error:
        # Flower marks a run as failed by an exception; the sentence is all there is to say.
        raise RuntimeError(str(error)) from None

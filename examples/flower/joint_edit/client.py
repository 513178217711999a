"""An institution: its model, its requests and its ledger stay here."""

from __future__ import annotations

from logging import ERROR, getLogger

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from repair.flower import answer

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """The reply to one order of the coordinator."""
    log = getLogger("flwr")
    return answer(message, context, lambda line: log.log(ERROR, line))

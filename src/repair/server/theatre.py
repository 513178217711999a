"""Where operations happen: one at a time, on a twin of the patient that answers nobody.

The twin shares every weight with the patient but those that edits change, so an operation can
try and measure while the patient goes on answering. What it commits reaches the patient through
the ledger. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from repair.factcheck import FactCheck, TrustedFact
from repair.ledger import Ledger
from repair.operation import OnStage
from repair.patient import Patient
from repair.pictures import without_pictures
from repair.server import hindsight
from repair.session import Session
from repair.types import Intent, Message, Outcome, Stage, Turn
from repair.watchdog import Watchdog

# An operation may have to wait for those of other server processes.
PATIENCE = 600.0
T = TypeVar("T")


def twin(patient: Patient) -> Patient:
    """A patient with the same answers and MLP weights of its own; W₀ must be on it."""
    own = {id(matrix.parameter) for matrix in patient.maps.values()}
    shared = [*patient.model.parameters(), *patient.model.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared if id(tensor) not in own}
    model = copy.deepcopy(patient.model, memo)
    tokenizer = copy.deepcopy(patient.tokenizer)
    hashed = patient.content_hash
    other = Patient(model, tokenizer, name=patient.name, content_hash=hashed, sight=patient.sight)
    other.source, other.revision = patient.source, patient.revision
    return other


class Theatre:
    """Reads wishes, and carries them out in one thread of its own.

    Args:
        session: of the twin; nobody else may use it from now on.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ledger = session.ledger
        self._watchdog = session.watchdog or Watchdog.load()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="theatre")

    def close(self) -> None:
        """Finish the operation in hand and close the ledger."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.ledger.close()

    async def read(self, text: str, history: Sequence[Message]) -> Intent:
        """What a turn asks for; see `Watchdog.read`."""
        return await asyncio.to_thread(self._watchdog.read, without_pictures(text), history)

    async def say(self, view: Ledger, history: Sequence[Message], text: str, tell: OnStage) -> Turn:
        """A turn that is an operation, to its end; ``tell`` hears its stages in that thread."""
        return await self._alone(view, lambda: self.session.say(text), history, tell)

    async def request(self, view: Ledger, text: str, tell: OnStage, **how: Any) -> Outcome:
        """One request, as `Session.request`."""
        return await self._alone(view, partial(self.session.request, text, **how), (), tell)

    async def correct(self, view: Ledger, fact: TrustedFact, *, accept: bool) -> Outcome:
        """One correction by a trusted fact, as `FactCheck.correct`."""
        check = FactCheck(self.session, [fact])
        return await self._alone(view, lambda: check.correct(fact, accept=accept))

    async def plan(self, view: Ledger, text: str) -> dict[str, Any]:
        """What a request would do, as `Session.plan`; nothing is changed."""
        return await self._alone(view, lambda: self.session.plan(text))

    async def why(self, view: Ledger, identity: int) -> str:
        """Why an edit was made, as `hindsight.why`; nothing is changed."""
        return await self._alone(view, lambda: hindsight.why(self.session, view, identity))

    async def known(self, view: Ledger, subject: str) -> list[dict[str, str]]:
        """What the patient says about a subject: attribute, question and answer of each."""
        found = await self._alone(view, lambda: self.session.surgeon.known(subject))
        return [
            {"attribute": f.attribute, "subject": f.subject, "question": f.question}
            | {"answer": f.answer}
            for f in found
        ]

    def answers(self, view: Ledger, questions: Sequence[str]) -> list[str]:
        """What the twin answers under a view's edits; waits for the operation in hand."""

        def ask() -> list[str]:
            self.session.resume(view)
            return self.session.surgeon.ask(questions)

        return self._pool.submit(ask).result()

    async def _alone(
        self,
        view: Ledger,
        work: Callable[[], T],
        history: Sequence[Message] = (),
        tell: OnStage | None = None,
    ) -> T:
        def carry_out() -> T:
            with view.lock(timeout=PATIENCE):
                self.session.resume(view, history)
                self.session.on_stage = tell or _nobody
                try:
                    return work()
                finally:
                    self.session.on_stage = _nobody

        # Shielded, because an operation goes on when who asked for it has gone.
        future = asyncio.get_running_loop().run_in_executor(self._pool, carry_out)
        return await asyncio.shield(future)


def _nobody(_stage: Stage) -> None:
    """Hears stages that nobody waits for."""

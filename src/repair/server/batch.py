"""The engine in this process: waiting questions are answered together by one thread.

That thread alone owns the weights that answer. It takes over what the ledger says between two
batches and never within one, so no answer is computed with half-changed weights, an edit waits
for no answer, and an answer that begins after an edit knows it. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from repair.errors import EnvironmentProblem, RepairError, UsageError
from repair.ledger import Ledger
from repair.patient import Patient
from repair.prompts import Prompts
from repair.server.engine import Piece, Question
from repair.server.rows import Choice, Text, row_by_row
from repair.types import Edit, LowRankUpdate

MOST_ROWS = 32
# How many people's own edits are kept at hand.
_OWNERS = 256
_CLOSED = "The server is shutting down."
Deliver = Callable[[Piece | RepairError], None]
Updates = tuple[LowRankUpdate, ...]


@dataclass
class _Job:
    question: Question
    prompt: list[int]
    deliver: Deliver
    cancelled: bool = False


class LocalEngine:
    """Batches questions on one patient, with the ledger's active edits on it.

    Args:
        patient: nobody else may touch its weights from now on.
        ledger: says which edits are in force, also those of other processes.
    """

    def __init__(self, patient: Patient, ledger: Ledger) -> None:
        self.name = patient.name
        self.patient = patient
        self.ledger = ledger.view("")
        self._prompts = Prompts(patient.tokenizer)
        self._ends = _end_ids(patient, self._prompts)
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._held: _Job | None = None
        self._token = -1
        self._own: dict[str, Updates] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def versions(self) -> list[str]:
        """The weights as they are now, under a name that changes with every edit."""
        return [f"{self.name}@{self.ledger.state_token()}"]

    def follow(self) -> None:
        """Nothing to do: every batch looks at the ledger first."""

    def close(self) -> None:
        """Finish the batch in hand and stop."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join(timeout=60)

    async def answer(self, question: Question) -> AsyncIterator[Piece]:
        """See `Engine.answer`; leaving the loop early stops the row."""
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Piece | RepairError] = asyncio.Queue()

        def deliver(piece: Piece | RepairError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(found.put_nowait, piece)

        job = await asyncio.to_thread(self._job, question, deliver)
        self._waiting.put(job)
        try:
            while True:
                piece = await found.get()
                if isinstance(piece, RepairError):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            job.cancelled = True

    def _job(self, question: Question, deliver: Deliver) -> _Job:
        if self._closed:
            raise EnvironmentProblem(_CLOSED, "Ask again later.")
        prompt = self.patient.prompt_ids(question.messages)
        limit = self.patient.context
        if limit is not None:
            if len(prompt) >= limit:
                raise UsageError(
                    f"The conversation has {len(prompt)} tokens and the model reads at most "
                    f"{limit}, its answer included.",
                    "Shorten it.",
                )
            room = min(question.max_tokens, limit - len(prompt))
            question = replace(question, max_tokens=room)
        return _Job(question, prompt, deliver)

    # The thread

    def _run(self) -> None:
        while True:
            jobs = self._next()
            if jobs is None:
                return
            try:
                self._catch_up({job.question.owner for job in jobs})
                self._generate(jobs)
            except RepairError as error:
                _fail(jobs, error)
            except (RuntimeError, ValueError, TypeError, LookupError, MemoryError) as error:
                # The thread must outlive any one batch.
                problem = EnvironmentProblem(f"The model failed ({type(error).__name__}).")
                problem.__cause__ = error
                _fail(jobs, problem)

    def _next(self) -> list[_Job] | None:
        """The questions of the next batch: as many as wait and fit beside each other."""
        first = self._held or self._waiting.get()
        self._held = None
        if first is None:
            return None
        jobs = [first]
        limit = self.patient.context
        while len(jobs) < MOST_ROWS:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._waiting.put(None)
                break
            both = [*jobs, job]
            longest = max(len(j.prompt) for j in both) + max(j.question.max_tokens for j in both)
            if limit is not None and longest > limit:
                self._held = job
                break
            jobs = both
        return jobs

    def _catch_up(self, owners: set[str]) -> None:
        """Take over what the ledger has in force, everyone's and the owners', of one state."""

        def read(token: int) -> tuple[Sequence[Edit] | None, dict[str, Updates]]:
            changed = token != self._token
            kept = {} if changed or len(self._own) > _OWNERS else self._own
            own = {owner: self._updates(owner) for owner in owners - kept.keys()}
            return self.ledger.active() if changed else None, {**kept, **own}

        token, (shared, self._own) = self.ledger.settled(read)
        if shared is not None:
            self.patient.apply(shared)
        self._token = token

    def _updates(self, owner: str) -> Updates:
        edits = self.ledger.view(owner).active(own=True) if owner else ()
        return tuple(update for edit in edits for update in edit.updates)

    def _generate(self, jobs: list[_Job]) -> None:
        asked = [job.question for job in jobs]
        texts = [Text(self._prompts, self._ends, q.max_tokens, q.stop) for q in asked]
        choices = [Choice(q.temperature, q.top_p, q.seed) for q in asked]
        owned = [self._own[q.owner] for q in asked]

        def step(ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
            done = []
            for job, text, token in zip(jobs, texts, ids[:, -1].tolist(), strict=True):
                if not text.finish and not job.cancelled:
                    fresh = text.add(token)
                    if fresh or text.finish:
                        job.deliver(self._piece(job, text, fresh))
                done.append(bool(text.finish) or job.cancelled)
            return torch.tensor(done, device=ids.device)

        with row_by_row(self.patient, choices, owned):
            prompts = [job.prompt for job in jobs]
            self.patient.generate_ids(prompts, max(q.max_tokens for q in asked), stop=step)

    def _piece(self, job: _Job, text: Text, fresh: str) -> Piece:
        version = f"{self.name}@{self._token}"
        return Piece(fresh, version, len(job.prompt), text.tokens, text.finish)


def _fail(jobs: list[_Job], error: RepairError) -> None:
    for job in jobs:
        job.deliver(error)


def _end_ids(patient: Patient, prompts: Prompts) -> frozenset[int]:
    known = getattr(patient.model.generation_config, "eos_token_id", None)
    ids = [*(known if isinstance(known, list) else [known]), prompts.end_of_turn]
    ids.append(patient.tokenizer.eos_token_id)
    return frozenset(index for index in ids if isinstance(index, int))

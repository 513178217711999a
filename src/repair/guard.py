"""The standing guard: are all requests so far still honoured by the model as it is now?

Knows requests (the active edits of this model and of those that it continues), their sealed
probes, and how to have one carried out again. Knows neither flags nor how an edit is made.

No text of a request is kept, so what came back is read off the patient itself: a sealed question
is asked, and the reply is the answer when its hashed words are those that the ledger keeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from repair import healings, schema
from repair.checkpoint import find_checkpoint
from repair.errors import UsageError
from repair.export.canaries import Canaries, check
from repair.ledger import Ledger
from repair.plan import RepairPlan
from repair.refusals import is_refusal
from repair.session import Session
from repair.trials import Clock
from repair.types import Budget, KnownFact, Outcome, SealedProbe
from repair.verify import lcs_recall, rouge_tokens

# The journal admits names of 40 characters at most; 156 bits of a hash are enough to know it by.
_SHORT = 39
_HASH = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Request:
    """One request to be honoured: the edit that first carried it out, and its probes."""

    edit: int
    kind: str
    probes: tuple[SealedProbe, ...]


class Guard:
    """Watches over the requests of one session's patient.

    Args:
        session: its ledger holds the requests of this model and of earlier ones.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ledger = session.ledger

    def since(self, earlier: str) -> str:
        """The full hash of the model that ``earlier`` names: a folder, a Hub id, "embedded", or
        at least 8 digits of a content hash.

        Raises:
            UsageError: this home's ledger has no edit of it, or it is this very model.
            ModelNotFound: no such model.
        """
        known = self._models()
        found = [hash_ for hash_ in known if _HASH.fullmatch(earlier) and hash_.startswith(earlier)]
        if not found:
            if _HASH.fullmatch(earlier):
                raise _unknown(earlier)
            source = None if earlier == "embedded" else earlier
            found = [find_checkpoint(source).content_hash()]
        if len(found) > 1:
            many = f"{earlier} begins the hash of {len(found)} models."
            raise UsageError(many, "Give more of it.")
        if found[0] == self.ledger.model:
            raise UsageError(
                "The model to watch and the one that it continues are the same.",
                "Name the updated one with --model, or leave --since out.",
            )
        if found[0] not in known and not self._view(found[0]).journal():
            raise _unknown(earlier)
        return found[0]

    def requests(self, since: str | None = None) -> tuple[Request, ...]:
        """Every request that is in force, by the id of the edit that first carried it out.

        A request was withdrawn when its edit was undone, or the one that last took its place.
        """
        views = [self._view(model) for model in self._lineage(since)]
        active = {e.id: (e, v) for v in views for e in v.history() if e.state == "active"}
        again: dict[int, int] = {}
        for view in reversed(views):
            for noted in _notes(view, "reapplied"):
                again[noted["request"]] = noted["edit"]
        return tuple(
            Request(identity, summary.kind, view.probes(identity))
            for identity, (summary, view) in sorted(active.items())
            if summary.kind != healings.KIND
            and identity not in again.values()
            and again.get(identity, identity) in active
        )

    def watch(
        self,
        *,
        since: str | None = None,
        keep: bool = True,
        accept: bool = False,
        budget: Budget | None = None,
    ) -> dict[str, Any]:
        """Verify all requests, and carry out again those whose knowledge came back.

        Args:
            since: the hash of an earlier model whose requests hold for this one too.
            keep: False only looks; nothing is carried out and nothing noted.
            accept: carry out also what forgets and costs more than the budget allows.
            budget: what each operation may cost; the session's own if not given.

        Returns ``{"model", "requests": [{"edit", "kind", "n", "recall", "status", "by", "left",
        "reason"}], "came_back", "reapplied", "passed"}``; ``status`` is honoured, came_back (only
        looked at), reapplied, or given_away. ``recall`` is before, ``left`` after this watch.
        """
        if keep and since is not None and since not in self._lineage(None):
            self.ledger.note("continues", {"since": _short(since)})
        requests = self.requests(since)
        before = self._recalls(requests)
        rows = [_row(request, before[request.edit]) for request in requests]
        back = [(q, row) for q, row in zip(requests, rows, strict=True) if _told(row["recall"])]
        for request, row in back:
            row["status"] = "given_away" if keep else "came_back"
            if keep:
                outcome = self._again(request, accept=accept, budget=budget)
                row |= {"by": outcome.edit, "reason": outcome.reason}
        after = self._recalls(requests) if keep and back else before
        for row in rows:
            row["left"] = round(after[row["edit"]], 4)
            if row["by"] is not None and not _told(row["left"]):
                row["status"] = "reapplied"
            elif keep and _told(row["left"]):
                # Carrying out one request may bring another back.
                row["status"] = "given_away"
        record = {
            "model": self.ledger.model,
            "requests": rows,
            "came_back": len(back),
            "reapplied": sum(row["status"] == "reapplied" for row in rows),
            "passed": all(row["status"] in ("honoured", "reapplied") for row in rows),
        }
        if keep:
            counts = {name: record[name] for name in ("came_back", "reapplied", "passed")}
            self.ledger.note("watched", {"requests": len(rows), **counts})
        return record

    def _recalls(self, requests: Sequence[Request]) -> dict[int, float]:
        """Mean recall of each request's probes, as `repair verify` takes it."""
        if not requests:
            return {}
        asked = Canaries({request.edit: request.probes for request in requests})
        found = check(asked, self.ledger.vault, self.session.surgeon.ask)
        return {row["edit"]: row["recall"] for row in found["edits"]}

    def _again(self, request: Request, *, accept: bool, budget: Budget | None) -> Outcome:
        """One request, carried out on what the patient says now.

        A correction is carried out as forgetting: the right answer is not kept, and silence is
        better than the wrong one.
        """
        session, clock = self.session, Clock()
        with session.patient.remembering():
            with clock.time("surgeon"):
                facts = list(self._facts(request))
                plan: RepairPlan | None = None
                if facts:
                    plan = session.surgeon.plan_facts([f.question for f in facts], facts)
                    plan = plan and plan.within(budget)
            outcome = session.carry_out(plan, (), clock, accept=accept)
        if outcome.status == "healed" and outcome.edit is not None:
            self.ledger.note("reapplied", {"request": request.edit, "edit": outcome.edit})
        return outcome

    def _facts(self, request: Request) -> Iterator[KnownFact]:
        """What the patient gives away of a request, in the wording that gives away the most."""
        surgeon, vault = self.session.surgeon, self.ledger.vault
        replies = surgeon.ask([probe.question for probe in request.probes])
        by_answer: dict[tuple[str, ...], list[tuple[float, str, str]]] = {}
        for probe, reply in zip(request.probes, replies, strict=True):
            recall = lcs_recall(probe.words, vault.words(rouge_tokens(reply)))
            told = 0.0 if is_refusal(reply) else recall
            by_answer.setdefault(probe.words, []).append((told, probe.question, reply))
        for said in by_answer.values():
            told, question, answer = max(said, key=lambda item: item[0])
            if not _told(told):
                continue
            read = surgeon.known(question)
            fact = read[0] if read else KnownFact("", "", question, answer)
            others = [other for _, other, _ in said if other != question]
            known = {question, *fact.rewordings, *fact.probes}
            more = tuple(other for other in others if other not in known)
            rewordings = tuple(w for w in (*fact.rewordings, *more) if w != question)
            yield replace(fact, question=question, answer=answer, rewordings=rewordings)

    def _lineage(self, since: str | None) -> list[str]:
        """This model's hash, then those of the models that it continues, each once."""
        waiting, found = [self.ledger.model, *([since] if since else [])], list[str]()
        while waiting:
            model = waiting.pop(0)
            if model in found:
                continue
            found.append(model)
            starts = {noted["since"] for noted in _notes(self._view(model), "continues")}
            waiting += [m for m in self._models() if _short(m) in starts]
        return found

    def _models(self) -> list[str]:
        """The hashes of all models that this ledger has events of."""
        with self.ledger.transaction() as connection:
            return list(connection.scalars(select(schema.journal.c.model).distinct()))

    def _view(self, model: str) -> Ledger:
        return self.ledger.view("", shared=True, model=model)


def _notes(view: Ledger, event: str) -> Iterator[dict[str, Any]]:
    """What was noted in a model's journal under one name, oldest first."""
    for noted in view.journal():
        if noted["event"] == event:
            yield noted["details"]["measures"]


def _short(model: str) -> str:
    """A hash as the journal takes it: a short name that begins with a letter."""
    return f"m{model}"[: _SHORT + 1]


def _told(recall: float) -> bool:
    """Whether so much recall is more than an operation may leave."""
    return recall > Budget().forget


def _row(request: Request, recall: float) -> dict[str, Any]:
    return {
        "edit": request.edit,
        "kind": request.kind,
        "n": len(request.probes),
        "recall": round(recall, 4),
        "status": "honoured",
        "by": None,
        "left": 0.0,
        "reason": "",
    }


def _unknown(earlier: str) -> UsageError:
    return UsageError(
        f"This home has no requests made to {earlier[:80]}.",
        "Give the model that they were made to, and the --home where they were made.",
    )

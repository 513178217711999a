"""One conversation with a patient that can be told to forget.

Knows the order of a turn: watchdog, surgeon, operation, ledger, reply. Knows no details of
any of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repair.errors import PolicyRefused, UnknownEdit, UsageError
from repair.export.canaries import check, of_active_edits
from repair.export.folder import export
from repair.joint import Fleet, JointOperation, merged
from repair.ledger import Ledger
from repair.operation import OnStage, Operation
from repair.patient import Patient
from repair.pictures import REFERENCE, without_pictures
from repair.plan import RepairPlan
from repair.policy import Policy
from repair.preparation import Preparation, prepare
from repair.records import share
from repair.redaction import without
from repair.replies import asked_back, found, is_yes, spoken, to_confirm
from repair.restore import covers, edits_meant
from repair.separation import distances, tokens
from repair.settings import Settings
from repair.surgeon import Surgeon
from repair.targets import ordered
from repair.trials import Clock
from repair.types import Budget, EditSummary, Intent, IntentKind, Message, Outcome, Stage, Turn
from repair.watchdog import Watchdog

if TYPE_CHECKING:
    from repair.readers import Reader

LONGEST_REQUEST = 20_000
# Below this confidence a reading changes nothing; the user is asked instead.
SURE = 0.6
HISTORY = 10  # The conversation takes at most one part in so many of the context.


class Session:
    """A patient, its ledger, and the conversation so far.

    Args:
        patient: the model; the ledger's active edits are put on it.
        home: where the ledger lives; None takes ``REPAIR_HOME`` or the platform's folder.
        database: where its tables are, if not in the home.
        on_stage: is told each stage of an operation as it happens.
        policy: what may be asked; None takes the one that ships.

    Raises:
        LedgerCorrupted, LedgerBusy, DiskFull: the home cannot be used.
    """

    def __init__(
        self,
        patient: Patient,
        *,
        home: Path | str | None = None,
        database: str | None = None,
        on_stage: OnStage | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.patient = patient
        self.home = Path(home) if home is not None else Settings().home
        self.ledger = Ledger(self.home, patient.content_hash, database)
        self.surgeon = Surgeon(patient)
        self.surgeon.covered = lambda fact: covers(self.ledger, fact)
        self.messages: list[Message] = []
        self.on_stage: OnStage = on_stage or (lambda _: None)
        self.policy = policy or Policy.load()
        self.watchdog: Reader | None = None
        self._surgery: Operation | None = None
        self._waiting: Intent | None = None
        self._seen: tuple[str, int] | None = None
        self.refresh()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ledger; the patient keeps its edits."""
        self.ledger.close()

    def resume(self, ledger: Ledger, messages: Sequence[Message] = ()) -> None:
        """Go on with another conversation, for who sees the ledger through this view of it."""
        self.ledger, self.messages, self._waiting = ledger, list(messages), None
        if self._surgery is not None:
            self._surgery.ledger = ledger
        self.refresh()

    # Talking

    def ask(self, text: str) -> Turn:
        """One answer without history; never edits."""
        self._check(text)
        self.refresh()
        intent = self._read(text, ())
        return Turn(self.patient.reply([{"role": "user", "content": text}]), intent)

    def say(self, text: str) -> Turn:
        """One turn of the conversation: an answer, or an operation and what came of it."""
        self._check(text)
        self.refresh()
        intent = self._read(text, self.messages)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and is_yes(text):
            outcome = self._operate(waiting, accept=True)
            return Turn(spoken(outcome, waiting), waiting, outcome)
        if intent.kind == "none":
            return self._talk(text, intent)
        if intent.confidence < SURE:
            self._waiting = intent if intent.kind != "restore" and intent.targets else None
            return Turn(asked_back(intent), intent)
        if intent.kind == "restore":
            return Turn(self._restore(intent), intent)
        try:
            question = self.policy.request(text, intent).question(accepted=False)
        except PolicyRefused as error:
            return Turn(error.message, intent)
        if not intent.targets:
            return Turn("What exactly should I forget? Please name it in one sentence.", intent)
        if intent.kind == "correct" and not intent.replacement:
            return Turn("What is right instead? Please say it in one sentence.", intent)
        outcome = to_confirm(intent, question) if question else self._operate(intent)
        if outcome.status == "needs_confirmation":
            self._waiting = intent
        return Turn(spoken(outcome, intent), intent, outcome)

    def _talk(self, text: str, intent: Intent) -> Turn:
        message: Message = {"role": "user", "content": text}
        reply = self.patient.reply(self._recent(message))
        # Only what was answered is part of the conversation, so that roles keep alternating.
        self.messages += [message, {"role": "assistant", "content": reply}]
        return Turn(reply, intent)

    def _recent(self, message: Message) -> list[Message]:
        """The last exchanges, as far as they take up little of the model's context."""
        limit = self.patient.context or 8192
        recent = [*self.messages[-12:], message]
        while len(recent) > 1 and len(self.patient.prompt_ids(recent)) > limit // HISTORY:
            del recent[:2]
        return recent

    # Operations

    def request(
        self,
        text: str,
        *,
        dry_run: bool = False,
        yes: bool = False,
        kind: IntentKind | None = None,
        strength: float = 1.0,
        budget: Budget | None = None,
    ) -> Outcome:
        """The whole operation for one request in plain words.

        Args:
            dry_run: edit, measure and take it back; nothing is kept.
            yes: carry out also what would need a confirmation: a wish that is not clear, or
                an edit that forgets and costs more than the budget allows.
            kind: what the caller knows the request to be, if the words do not say it.
            strength: how much of the change to put in force, from 0 (nothing) to 1.
            budget: what it may cost; the session's own if not given.
        """
        self._check(text)
        self.refresh()
        clock, part = Clock(), share(strength)
        with clock.time("watchdog"):
            intent = self._read(text, self.messages)
        if kind is not None and intent.kind != kind:
            named = intent.targets or ordered(without_pictures(text))
            intent = replace(intent, kind=kind, targets=named)
        question = self.policy.request(text, intent).question(accepted=yes)
        if intent.kind not in ("forget", "correct") or not intent.targets:
            return Outcome(
                "not_a_request", targets=intent.targets, reason="No wish to forget was read."
            )
        if intent.confidence < SURE and not yes and kind is None:
            question = "The wish is not clear enough to act on."
        if question:
            return to_confirm(intent, question)
        how = {"dry_run": dry_run, "strength": part, "accept": yes}
        return self._operate(intent, clock, budget=budget, **how)

    def forget(self, question: str, answer: str | None = None, *, strength: float = 1.0) -> Outcome:
        """Forget a known pair, without the watchdog.

        ``answer`` None takes what the patient answers now; ``strength`` as in `request`.
        """
        self._check(question)
        self.refresh()
        clock, part = Clock(), share(strength)
        with self.patient.remembering():
            with clock.time("surgeon"):
                plan = self.surgeon.plan_question(question, answer)
            return self.carry_out(plan, (question,), clock, strength=part)

    def together(
        self, texts: Sequence[str], fleet: Fleet, *, budget: Budget | None = None, **how: Any
    ) -> Outcome:
        """Forget what all texts ask for, or nothing; ``how``: dry_run, strength, accept."""
        self.refresh()
        clock, texts = Clock(), [text.strip() for text in texts]
        intents = [self._read(text, ()) for text in texts]
        for i, intent in enumerate(intents):
            intents[i] = replace(intent, kind="forget", targets=intent.targets or ordered(texts[i]))
            # A list was put together by somebody: only what is refused stops it.
            self.policy.request(texts[i], intents[i]).question(accepted=True)
        with self.patient.remembering():
            with clock.time("surgeon"):
                plans = fleet.plans(intents)
            plan = merged(plans).within(budget) if plans else None
            if plan is not None:
                self.policy.plan(plan).question(accepted=True)
            joint = JointOperation(self.patient, self.preparation, fleet, self.ledger, self._tell)
            return self.carry_out(plan, texts, clock, operation=joint, **how)

    def plan(self, text: str, *, explain: bool = False) -> dict[str, Any]:
        """Watchdog and surgeon; nothing is applied.

        ``explain`` adds tokens and measured distances, for `repair.explain.page`.
        """
        self._check(text)
        self.refresh()
        intent = self._read(text, self.messages)
        if intent.kind == "none":
            intent = replace(intent, kind="forget", targets=ordered(text))
        plan = self.surgeon.plan(intent)
        ruling = self.policy.request(text, intent)
        read = {**intent.to_json(), "policy": ruling.action, "known": plan is not None}
        if explain and plan is not None:
            read["distances"] = distances(self.patient, plan.facts)
            read["tokens"] = {f.question: tokens(self.patient, f) for f in plan.facts}
        return {**read, "plan": plan.to_json() if plan is not None else None}

    def _operate(
        self,
        intent: Intent,
        clock: Clock | None = None,
        *,
        budget: Budget | None = None,
        **how: Any,
    ) -> Outcome:
        clock = clock or Clock()
        with self.patient.remembering():
            with clock.time("surgeon"):
                plan = self.surgeon.plan(intent)
            if plan is not None:
                question = self.policy.plan(plan).question(accepted=how.get("accept", False))
                if question:
                    return to_confirm(intent, question)
            plan = plan and plan.within(budget)
            return self.carry_out(plan, intent.targets, clock, **how)

    def carry_out(
        self,
        plan: RepairPlan | None,
        targets: Sequence[str],
        clock: Clock,
        *,
        dry_run: bool = False,
        strength: float = 1.0,
        accept: bool = False,
        operation: Operation | None = None,
    ) -> Outcome:
        """A plan in hand, to its end; None is one for something that the patient does not know."""
        if plan is None:
            why = "I don't know that anyway; nothing was changed."
            return Outcome("unknown_fact", targets=tuple(targets), reason=why)
        self.on_stage(Stage("found", found(plan.facts), {"facts": len(plan.facts)}))
        text = f"{len(plan.neighbours)} neighbours kept, {len(plan.retain)} others watched"
        self.on_stage(Stage("planned", text, {"layers": plan.layers, "strengths": plan.strengths}))
        start = time.perf_counter()
        with self.ledger.lock():
            self.refresh()
            outcome = (operation or self.operation).run(
                plan, clock, keep=not dry_run, strength=strength, accept=accept
            )
            self._seen = (self.ledger.owner, self.ledger.state_token())
        spent = sum(clock.seconds.get(name, 0.0) for name in ("watchdog", "surgeon"))
        total = time.perf_counter() - start + spent
        outcome = replace(outcome, seconds={**outcome.seconds, "total": total})
        if outcome.status == "healed" and not dry_run:
            self.messages = without(self.messages, [fact.answer for fact in plan.facts])
        return outcome

    # The ledger

    def undo(self, *ids: int) -> tuple[int, ...]:
        """Take edits back, exactly; without ids the last active one."""
        return self._switch(ids, active=True)

    def redo(self, *ids: int) -> tuple[int, ...]:
        """Put undone edits back, exactly; without ids the last undone one."""
        return self._switch(ids, active=False)

    def adjust(self, identity: int, strength: float) -> None:
        """Set how much of an edit is in force, from 0 to 1, exactly and as often as wanted."""
        with self.ledger.lock():
            self.ledger.adjust(identity, strength)
            self.refresh()

    def _switch(self, ids: Sequence[int], *, active: bool) -> tuple[int, ...]:
        with self.ledger.lock():
            state, verb = ("active", "undo") if active else ("undone", "redo")
            chosen = tuple(ids or [e.id for e in self.ledger.history() if e.state == state][-1:])
            if not chosen:
                raise UsageError(f"There is nothing to {verb}.", "`repair history` lists edits.")
            switched = (self.ledger.undo if active else self.ledger.redo)(chosen)
            self.refresh()
        return switched

    def _restore(self, intent: Intent) -> str:
        named = edits_meant(intent.targets, self.ledger)
        if intent.targets and not named:
            return "I have forgotten nothing under these words; /history lists what I have."
        try:
            undone = self.undo(*named)
        except (UsageError, UnknownEdit) as error:
            return error.message
        return f"I took back edit {', '.join(map(str, undone))}; I know it again."

    def history(self) -> tuple[EditSummary, ...]:
        """All edits of this model, oldest first."""
        return self.ledger.history()

    def audit(self, identity: int | None = None) -> dict[str, Any]:
        """The receipt of one edit, or of all with the journal's check."""
        if identity is not None:
            return self.ledger.receipt(identity)
        events = self.ledger.verify()
        receipts = [self.ledger.receipt(edit.id) for edit in self.ledger.history()]
        return {"events": events, "chain": "intact", "edits": receipts}

    def verify(self) -> dict[str, Any]:
        """Ask the sealed probes of all active edits again; answers are compared as hashes."""
        self.refresh()
        canaries = of_active_edits(self.ledger)
        if not canaries.edits:
            return {"edits": [], "kept": None, "passed": True}
        return check(canaries, self.ledger.vault, self.surgeon.ask)

    def export(self, directory: Path, format: str = "peft", *, max_rank: int | None = None) -> Path:
        """Write the active edits for other programs; see ``repair.export.folder.export``."""
        self.refresh()
        export(self.patient, directory, format, ledger=self.ledger, max_rank=max_rank)
        return Path(directory)

    # Inside

    def _check(self, text: str) -> None:
        if not text.strip():
            raise UsageError("The message is empty.", "Say something.")
        if len(text) > LONGEST_REQUEST:
            raise UsageError(
                f"The message has {len(text):,} characters; at most {LONGEST_REQUEST:,} are read.",
                "Shorten it.",
            )

    def _read(self, text: str, history: Sequence[Message]) -> Intent:
        if self.watchdog is None:
            self.watchdog = Watchdog.load()
        intent = self.watchdog.read(without_pictures(text), history)
        return replace(intent, pictures=tuple(REFERENCE.findall(text)))

    @property
    def operation(self) -> Operation:
        """Carries out plans on this patient; its preparation is made when first needed."""
        if self._surgery is None:
            prepared = prepare(self.patient, self.home / "cache")
            self._surgery = Operation(self.patient, prepared, self.ledger, self._tell)
        return self._surgery

    @property
    def preparation(self) -> Preparation:
        """What edits need to know of this whole model; made and cached when first needed."""
        return self.operation.preparation

    def _tell(self, stage: Stage) -> None:
        self.on_stage(stage)

    def refresh(self) -> None:
        """Take over what other processes have done to the ledger since."""
        if (self.ledger.owner, self.ledger.state_token()) != self._seen:
            token, edits = self.ledger.settled(lambda _: self.ledger.active())
            self.patient.apply(edits)
            self._seen = (self.ledger.owner, token)

"""The engine as other servers: each state of the edits is an adapter, pushed to all of them.

Watchdog, surgeon and ledger stay here; the replicas only answer. A new state is loaded under a
new name by every replica, asked canaries there, and only then routed to; until then nobody is
answered from the state before, which may still tell what was forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from repair.errors import EnvironmentProblem, RepairError
from repair.export.canaries import Canaries, check, of_active_edits, with_kept
from repair.ledger import Ledger
from repair.patient import Patient
from repair.plan import MAX_ANSWER_TOKENS
from repair.server.engine import Piece, Question
from repair.types import Edit, SealedProbe

# What the local patient answers under the same edits, and nobody's secret.
Local = Callable[[Ledger, Sequence[str]], list[str]]
_GENERAL = 8
_MOST_PROBES = 24
_THREADS = 64


class Remote(Protocol):
    """A server, or several that act as one, that answers under names: `Replica` says how."""

    root: str

    def models(self) -> list[str]: ...
    def save(self, patient: Patient, edits: Sequence[Edit], folder: Path) -> None: ...
    def load(self, name: str, folder: Path) -> None: ...
    def unload(self, name: str) -> None: ...
    def answers(self, model: str, questions: Sequence[str], most: int) -> list[str]: ...
    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]: ...
    def close(self) -> None: ...


class RemoteEngine:
    """Replicas of one base model, kept at the ledger's state.

    Args:
        patient: says what the model's layers are called; its weights are not touched.
        local: answers here with a view's edits, for the canaries.
        folder: where adapters are written; the replicas must see it under the same path.

    Raises:
        EnvironmentProblem: a replica cannot be reached or serves no model.
    """

    def __init__(
        self,
        patient: Patient,
        ledger: Ledger,
        replicas: Sequence[Remote],
        folder: Path,
        local: Local,
    ) -> None:
        self.name = patient.name
        self._patient, self._ledger, self._local = patient, ledger.view(""), local
        self._replicas, self._folder = list(replicas), folder.absolute()
        self._bases = [self._base(replica) for replica in self._replicas]
        self._turn = itertools.count()
        self._lock = threading.Lock()
        # By owner: the ledger's state, and the adapter's name, empty for the bare model.
        self._served: dict[str, tuple[int, str]] = {}
        # Adapters that answer no new question, and by adapter how many answers are under way.
        self._retired: set[str] = set()
        self._busy: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="remote")

    @staticmethod
    def _base(replica: Remote) -> str:
        names = replica.models()
        if not names:
            raise EnvironmentProblem(f"The engine at {replica.root} serves no model.")
        return names[0]

    def versions(self) -> list[str]:
        """The adapters in use."""
        with self._lock:
            return sorted({name for _, name in self._served.values() if name})

    def follow(self) -> None:
        """Push the ledger's state to every replica, verify it there, and route to it."""
        with self._lock:
            self._serve("")

    def close(self) -> None:
        """Stop asking; servers of somebody else's keep their adapters."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for replica in self._replicas:
            replica.close()

    async def answer(self, question: Question) -> AsyncIterator[Piece]:
        """See `Engine.answer`."""
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Piece | RepairError] = asyncio.Queue()
        gone = threading.Event()

        def deliver(piece: Piece | RepairError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(found.put_nowait, piece)

        self._pool.submit(self._relay, question, deliver, gone)
        try:
            while True:
                piece = await found.get()
                if isinstance(piece, RepairError):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            gone.set()

    def _relay(self, question: Question, deliver: Any, gone: threading.Event) -> None:
        try:
            with self._using(question.owner) as name:
                self._pass_on(question, name, deliver, gone)
        except RepairError as error:
            deliver(error)

    def _pass_on(self, question: Question, name: str, deliver: Any, gone: threading.Event) -> None:
        index = next(self._turn) % len(self._replicas)
        body = {
            "model": name or self._bases[index],
            "messages": question.messages,
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "seed": question.seed,
            "stop": list(question.stop),
        }
        version, finish = name or self.name, "stop"
        usage: dict[str, int] = {}
        for chunk in self._replicas[index].stream(body):
            if gone.is_set():
                return
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                text = (choice.get("delta") or {}).get("content") or ""
                finish = choice.get("finish_reason") or finish
                if text:
                    deliver(Piece(text, version, 0, 0))
        counts = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        deliver(Piece("", version, *counts, finish))

    # Versions

    @contextmanager
    def _using(self, owner: str) -> Iterator[str]:
        """The name that answers for ``owner``, which stays loaded meanwhile."""
        with self._lock:
            name = self._serve(owner)
            self._busy[name] += 1
        try:
            yield name
        finally:
            with self._lock:
                self._busy[name] -= 1
                self._let_go()

    def _serve(self, owner: str) -> str:
        """The name that answers for ``owner`` at the ledger's present state, loaded and tried."""
        view = self._ledger.view(owner)
        if owner and not view.active(own=True):
            self._retire(self._served.pop(owner, (0, ""))[1])
            owner, view = "", self._ledger
        known = self._served.get(owner)
        if known is not None and known[0] == view.state_token():
            return known[1]
        (state, edits), name = view.settled(lambda _: view.active()), ""
        if edits:
            name = "-".join(filter(None, ("repair", view.model[:8], str(state), owner)))
            self._replicas[0].save(self._patient, edits, self._folder / name)
            self._push(view, name)
        self._served[owner] = (state, name)
        self._retired.discard(name)
        if known is not None:
            self._retire(known[1])
        return name

    def _push(self, view: Ledger, name: str) -> None:
        """Load on every replica and ask the canaries there; on a failure on none."""
        canaries = self._canaries(view)
        loaded: list[Remote] = []
        try:
            for replica in self._replicas:
                if name not in replica.models():
                    replica.load(name, self._folder / name)
                loaded.append(replica)
                answer = partial(replica.answers, name, most=MAX_ANSWER_TOKENS)
                if not check(canaries, view.vault, answer)["passed"]:
                    raise EnvironmentProblem(
                        f"The engine at {replica.root} loaded adapter {name} and answers "
                        "otherwise than here.",
                        "It may serve another base model, or limit the adapter's rank.",
                    )
        except RepairError:
            for replica in loaded:
                replica.unload(name)
            raise

    def _canaries(self, view: Ledger) -> Canaries:
        """What holds here under a view's edits, of the latest first, and must hold elsewhere."""
        edits: dict[int, tuple[SealedProbe, ...]] = {}
        for identity, probes in reversed(list(of_active_edits(view).edits.items())):
            if sum(map(len, edits.values())) < _MOST_PROBES:
                edits[identity] = probes
        local = partial(self._local, view)
        found = with_kept(Canaries(edits), view.vault, local, _GENERAL)
        # An edit in force in part may still give its fact away; then it does so elsewhere too.
        rows = check(found, view.vault, local)["edits"]
        weak = [p.question for row in rows if not row["passed"] for p in edits[row["edit"]]]
        gone = {row["edit"]: edits[row["edit"]] for row in rows if row["passed"]}
        return Canaries(gone, (*found.kept, *zip(weak, local(weak), strict=True)))

    def _retire(self, name: str) -> None:
        if name:
            self._retired.add(name)
            self._let_go()

    def _let_go(self) -> None:
        """Unload what answers no new question, once its last answer has ended."""
        for name in [name for name in self._retired if not self._busy[name]]:
            self._retired.discard(name)
            for replica in self._replicas:
                # One that cannot be reached is heard of when it is asked something.
                with suppress(EnvironmentProblem):
                    if name in replica.models():
                        replica.unload(name)

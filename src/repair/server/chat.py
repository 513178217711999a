"""``/v1/chat/completions``: a turn is answered by the engine, or is an operation.

Knows OpenAI's shapes. Which turns are operations the watchdog says.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from repair.errors import NotAllowed, RepairError, UnknownModel
from repair.ledger import Ledger
from repair.people import Person
from repair.replies import is_yes, spoken
from repair.server.engine import Answer, Piece, Question
from repair.server.history import MARK
from repair.server.schemas import ChatRequest, Extras, openai_error
from repair.server.service import Service
from repair.session import SURE
from repair.types import Intent, Message, Outcome, Stage, Turn

DEFAULT_TOKENS = 512
DONE = b"data: [DONE]\n\n"
# Ends the reply that asks whether to go on at the price it names.
_ASKS = "Say yes to do it all the same."


@dataclass
class Completion:
    """The fixed parts of one reply in OpenAI's shape."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[dict[str, Any]], version: str, usage: dict[str, int]) -> Any:
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": version,
            "choices": choices,
            "usage": usage,
        }

    def event(
        self,
        delta: dict[str, Any] | None,
        finish: str | None = None,
        *,
        index: int = 0,
        usage: dict[str, int] | None = None,
    ) -> bytes:
        """One server-sent event; without a delta it carries the usage alone."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [] if delta is None else [choice],
        }
        if usage is not None:
            body["usage"] = usage
        return f"data: {json.dumps(body)}\n\n".encode()


async def wish(service: Service, request: ChatRequest, messages: list[Message]) -> Intent | None:
    """What the last turn orders, or None when it is talk."""
    text = messages[-1]["content"]
    if not request.repair.edit or messages[-1]["role"] != "user" or not text.strip():
        return None
    if request.repair.kind is not None:
        return Intent(request.repair.kind, (text,))
    if agreed(messages):
        return Intent("forget", ())
    intent = await service.theatre.read(text, messages[:-1])
    sure = intent.kind != "none" and intent.confidence >= SURE
    return intent if sure else None


def agreed(messages: list[Message]) -> bool:
    """Whether the last turn says yes to an operation whose price was just named."""
    return (
        len(messages) >= 3
        and messages[-2]["role"] == "assistant"
        and messages[-2]["content"].endswith(_ASKS)
        and is_yes(messages[-1]["content"])
    )


# Operations


class Operating:
    """One operation inside a chat: its stages as they come, then its outcome."""

    def __init__(self, service: Service, person: Person, extras: Extras, intent: Intent) -> None:
        self.service, self.extras, self.intent = service, extras, intent
        self.stages: list[dict[str, Any]] = []
        self._heard: asyncio.Queue[Stage | None] = asyncio.Queue()
        if intent.kind == "restore":
            service.access.require(person, "member")
            self._view: Ledger = service.access.seen(person, service.ledger)
        else:
            self._view = service.access.editing(person, service.ledger, own=extras.scope == "own")

    async def run(self, messages: list[Message]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Text and structured data of each step; the last has the outcome."""
        start = time.perf_counter()
        loop = asyncio.get_running_loop()

        def tell(stage: Stage) -> None:
            loop.call_soon_threadsafe(self._heard.put_nowait, stage)

        task = asyncio.ensure_future(self._operate(messages, tell))
        task.add_done_callback(lambda _: self._heard.put_nowait(None))
        while (stage := await self._heard.get()) is not None:
            shown = {"name": stage.name, "text": stage.text, "values": _plain(stage.values)}
            self.stages.append(shown)
            yield f"{MARK}{stage.name} · {stage.text}\n", {"stage": shown}
        turn = await task
        status = turn.operation.status if turn.operation else turn.intent.kind
        self.service.metrics.operations.labels(status).inc()
        self.service.metrics.operation_seconds.observe(time.perf_counter() - start)
        await asyncio.to_thread(self.service.engine.follow)
        gap = "\n" if self.stages else ""
        yield gap + turn.reply, {"intent": turn.intent.kind, "outcome": _outcome(turn.operation)}

    async def _operate(self, messages: list[Message], tell: Any) -> Turn:
        text, history = messages[-1]["content"], messages[:-1]
        kind, yes = self.extras.kind, agreed(messages)
        if kind is None and not yes:
            return await self.service.theatre.say(self._view, history, text, tell)
        asked = text
        if yes:
            asked = next((m["content"] for m in reversed(history) if m["role"] == "user"), text)
        outcome = await self.service.theatre.request(self._view, asked, tell, yes=yes, kind=kind)
        return Turn(spoken(outcome, self.intent), self.intent, outcome)


def _plain(values: Any) -> Any:
    """Values ready for JSON, which has no infinity."""
    return json.loads(json.dumps(dict(values)), parse_constant=lambda _: None)


def _outcome(operation: Outcome | None) -> dict[str, Any] | None:
    return None if operation is None else _plain(operation.to_json())


async def operate(operating: Operating, messages: list[Message], shape: Completion) -> Any:
    """The whole operation as one completion."""
    text = ""
    extra: dict[str, Any] = {}
    async for more, data in operating.run(messages):
        text += more
        extra = {"stages": operating.stages, **data}
    message = {"role": "assistant", "content": text, "repair": extra}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return shape.whole([choice], shape.model, _usage(0, 0))


async def stream_operation(
    operating: Operating, messages: list[Message], shape: Completion
) -> AsyncIterator[bytes]:
    """The operation's steps as server-sent events, each with text and data."""
    yield shape.event({"role": "assistant", "content": ""})
    try:
        async for text, data in operating.run(messages):
            yield shape.event({"content": text, "repair": data})
        yield shape.event({}, "stop")
    except RepairError as error:
        yield _failed(error)
    yield DONE


# Talk


def questions(request: ChatRequest, messages: list[Message], person: Person) -> list[Question]:
    """One question for each of the n answers; seeds count up."""
    most = request.max_completion_tokens or request.max_tokens or DEFAULT_TOKENS
    seed = request.seed if request.seed is not None else secrets.randbits(32)
    return [
        Question(
            messages,
            most,
            request.temperature or 0.0,
            request.top_p or 1.0,
            seed + index,
            request.stops(),
            person.name,
        )
        for index in range(request.n or 1)
    ]


async def talk(service: Service, asked: list[Question], shape: Completion) -> Any:
    """All answers as one completion."""
    start = time.perf_counter()
    answers = await asyncio.gather(*(Answer().collect(service.engine.answer(q)) for q in asked))
    choices = [
        {
            "index": index,
            "message": _message(service, asked[index], answer.text.strip()),
            "logprobs": None,
            "finish_reason": answer.last.finish,
        }
        for index, answer in enumerate(answers)
    ]
    last = [answer.last for answer in answers]
    service.metrics.answer_seconds.observe(time.perf_counter() - start)
    return shape.whole(choices, last[0].version, _counted(service, last))


def _message(service: Service, question: Question, text: str) -> dict[str, Any]:
    """An answer in OpenAI's shape, marked where it contradicts a trusted fact."""
    mark = service.trusted.mark(question.messages, text)
    return {"role": "assistant", "content": text, **({"repair": mark} if mark else {})}


async def stream_talk(
    service: Service, asked: list[Question], shape: Completion, *, usage: bool
) -> AsyncIterator[bytes]:
    """All answers, interleaved, as server-sent events.

    Raises what the engine raises before the first of them, while the reply has no status yet.
    """
    start = time.perf_counter()
    found: asyncio.Queue[tuple[int, Piece | RepairError]] = asyncio.Queue()
    tasks = [asyncio.ensure_future(_into(found, i, service, q)) for i, q in enumerate(asked)]
    last: dict[int, Piece] = {}
    said: dict[int, str] = defaultdict(str)
    try:
        while len([p for p in last.values() if p.finish]) < len(asked):
            index, piece = await found.get()
            if isinstance(piece, RepairError):
                if not last:
                    raise piece
                yield _failed(piece)
                break
            role: dict[str, Any] = {} if index in last else {"role": "assistant"}
            last[index] = piece
            said[index] += piece.text
            mark = service.trusted.mark(asked[index].messages, said[index]) if piece.finish else {}
            role |= {"repair": mark} if mark else {}
            yield shape.event({**role, "content": piece.text}, piece.finish or None, index=index)
        counts = _counted(service, list(last.values()))
        if usage:
            yield shape.event(None, usage=counts)
        yield DONE
        service.metrics.answer_seconds.observe(time.perf_counter() - start)
    finally:
        for task in tasks:
            task.cancel()


async def _into(found: Any, index: int, service: Service, question: Question) -> None:
    try:
        async for piece in service.engine.answer(question):
            await found.put((index, piece))
    except RepairError as error:
        await found.put((index, error))


def _failed(error: RepairError) -> bytes:
    body = openai_error(str(error), error.code, error.http_status)
    return f"data: {json.dumps(body)}\n\n".encode()


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _counted(service: Service, last: list[Piece]) -> dict[str, int]:
    counts = _usage(
        max((p.prompt_tokens for p in last), default=0), sum(p.completion_tokens for p in last)
    )
    for kind in ("prompt", "completion"):
        service.metrics.tokens.labels(kind).inc(counts[f"{kind}_tokens"])
    return counts


def check_model(service: Service, asked: str | None) -> str:
    """The model's name, as asked for.

    Raises:
        UnknownModel: there is none of this name.
    """
    name = service.engine.name
    if asked in (None, "", name) or asked in service.engine.versions():
        return asked or name
    raise UnknownModel(f"There is no model {asked[:100]!r}.", f"This server has {name!r}.")


def refusal(error: NotAllowed) -> str:
    """What the model says to a wish of somebody who may not change it."""
    return f"I may not change what I know for you. {error}"

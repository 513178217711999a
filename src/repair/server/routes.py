"""The routes under ``/v1``: models, chat, edits, receipts, knowledge; each is a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from repair.errors import NotAllowed, RateLimited
from repair.ledger import Ledger
from repair.people import Person
from repair.server import chat, schemas
from repair.server.hindsight import content_policy
from repair.server.service import Service
from repair.server.words import explained
from repair.types import Stage

router = APIRouter(prefix="/v1")
Id = Annotated[int, Path(description="An edit's id.", ge=0, lt=2**31)]


def service_of(request: Request) -> Service:
    """The server's parts."""
    found: Service = request.app.state.service
    return found


def person_of(request: Request) -> Person:
    """Who asks; refuses who may not ask at all."""
    return service_of(request).access.person(request)


def view_of(request: Request, person: Annotated[Person, Depends(person_of)]) -> Ledger:
    """The ledger as who asks sees it."""
    service = service_of(request)
    return service.access.seen(person, service.ledger)


Served = Annotated[Service, Depends(service_of)]
Asking = Annotated[Person, Depends(person_of)]
View = Annotated[Ledger, Depends(view_of)]


@router.get("/models", tags=["models"])
def models(service: Served) -> dict[str, Any]:
    """The model as it is now, and each version of its adapters that is served."""
    names = [service.engine.name, *service.engine.versions()]
    owner = {"object": "model", "created": 0, "owned_by": "repair"}
    return {"object": "list", "data": [{"id": name, **owner} for name in names]}


@router.get("/models/{name}", tags=["models"])
def model(name: str, service: Served) -> dict[str, Any]:
    """One model."""
    found = chat.check_model(service, name)
    return {"id": found, "object": "model", "created": 0, "owned_by": "repair"}


@router.post("/chat/completions", tags=["chat"])
async def completions(body: schemas.ChatRequest, service: Served, person: Asking) -> Response:
    """Answer a conversation; a last turn that asks to forget or correct is carried out."""
    shape = chat.Completion(await asyncio.to_thread(chat.check_model, service, body.model))
    messages = await asyncio.to_thread(body.plain, service.show)
    intent = await chat.wish(service, body, messages)
    if intent is not None:
        try:
            operating = chat.Operating(service, person, body.repair, intent)
        except RateLimited:
            raise
        except NotAllowed as error:
            return _said(chat.refusal(error), body, shape)
        if body.stream:
            return _stream(chat.stream_operation(operating, messages, shape))
        return JSONResponse(await chat.operate(operating, messages, shape))
    view = service.access.seen(person, service.ledger)
    shown = await asyncio.to_thread(service.history.shown, messages, view)
    asked = chat.questions(body, shown, person)
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = chat.stream_talk(service, asked, shape, usage=usage)
        return _stream(_after(await anext(events), events))
    return JSONResponse(await chat.talk(service, asked, shape))


def _stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _said(text: str, body: schemas.ChatRequest, shape: chat.Completion) -> Response:
    """A fixed sentence in the shape that was asked for."""
    extra: dict[str, Any] = {"stages": [], "outcome": None, "refused": True}
    message: dict[str, Any] = {"role": "assistant", "content": text, "repair": extra}
    if not body.stream:
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        counts = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return JSONResponse(shape.whole([choice], shape.model, counts))
    return _stream(_events([shape.event(message), shape.event({}, "stop"), chat.DONE]))


async def _events(events: list[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event


async def _after(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in events:
        yield event


# Edits


@router.get("/edits", tags=["edits"])
def edits(view: View) -> dict[str, Any]:
    """All edits that who asks can see, oldest first."""
    return {"object": "list", "data": [edit.to_json() for edit in view.history()]}


@router.post("/edits", tags=["edits"])
async def make_edit(body: schemas.EditRequest, service: Served, person: Asking) -> dict[str, Any]:
    """Carry out one request, without a conversation; the reply is that of `repair forget`."""
    view = service.access.editing(person, service.ledger, own=body.scope == "own")
    how = body.model_dump(include={"kind", "dry_run", "yes", "strength"})
    stages: list[Stage] = []
    outcome = await service.theatre.request(view, body.text, stages.append, **how)
    await asyncio.to_thread(service.engine.follow)
    service.metrics.operations.labels(outcome.status).inc()
    return outcome.to_json()


@router.get("/edits/{edit}", tags=["edits"])
def show(edit: Id, view: View) -> dict[str, Any]:
    """One edit, and what it did in words."""
    receipt = view.receipt(edit)
    return {**receipt, "explanation": explained(receipt)}


@router.post("/edits/{edit}/undo", tags=["edits"])
def undo(edit: Id, service: Served, person: Asking, view: View) -> dict[str, Any]:
    """Leave an edit out; the weights are as if it had never been made."""
    service.access.require(person, "member")
    with view.lock(timeout=60.0):
        view.undo([edit])
    service.engine.follow()
    return {"undone": [edit]}


@router.post("/edits/{edit}/redo", tags=["edits"])
def redo(edit: Id, service: Served, person: Asking, view: View) -> dict[str, Any]:
    """Put an undone edit back."""
    service.access.require(person, "member")
    with view.lock(timeout=60.0):
        view.redo([edit])
    service.engine.follow()
    return {"redone": [edit]}


@router.post("/edits/{edit}/strength", tags=["edits"])
def strength(
    edit: Id, body: schemas.Strength, service: Served, person: Asking, view: View
) -> dict[str, Any]:
    """Set how much of an edit is in force, from 0 to 1."""
    service.access.require(person, "member")
    with view.lock(timeout=60.0):
        view.adjust(edit, body.strength)
    service.engine.follow()
    return {"edit": edit, "strength": body.strength}


@router.post("/edits/{edit}/publish", tags=["edits"])
def publish(edit: Id, service: Served, person: Asking) -> dict[str, Any]:
    """Make somebody's own edit everyone's."""
    service.access.publish(person, service.ledger, edit)
    service.engine.follow()
    return {"published": [edit]}


@router.get("/edits/{edit}/receipt", tags=["edits"])
def receipt(edit: Id, view: View) -> JSONResponse:
    """The receipt, to keep; `repair audit --verify FILE` checks it without this server."""
    name = f'attachment; filename="receipt-{edit}.json"'
    return JSONResponse(view.receipt(edit), headers={"Content-Disposition": name})


@router.get("/edits/{edit}/why", tags=["edits"], response_class=HTMLResponse)
async def why(edit: Id, service: Served, person: Asking, view: View) -> HTMLResponse:
    """The surgeon's explanation, for curators and the edit's owner: it quotes what was said."""
    await asyncio.to_thread(service.access.quoting, person, view, edit)
    html = await service.theatre.why(view, edit)
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": content_policy(html)}
    return HTMLResponse(html, headers=headers)


@router.get("/audit", tags=["edits"])
def audit(service: Served, person: Asking) -> dict[str, Any]:
    """Check the journal's hash chain, of all models and people."""
    service.access.require(person, "curator")
    return {"events": service.ledger.verify(), "chain": "intact"}


@router.get("/facts", tags=["facts"])
def facts(service: Served, person: Asking) -> dict[str, Any]:
    """The trusted facts of this server, and whether answers are held to them."""
    service.access.require(person, "curator")
    return service.trusted.to_json()


@router.put("/facts", tags=["facts"])
def hold_to_facts(body: schemas.Switch, service: Served, person: Asking) -> dict[str, Any]:
    """Mark answers that contradict a trusted fact from now on, or no longer."""
    service.access.require(person, "curator")
    service.trusted.switch(body.on)
    return {"on": service.trusted.on}


@router.post("/facts/{line}/correct", tags=["facts"])
async def correct(
    line: Id, body: schemas.Accepting, service: Served, person: Asking
) -> dict[str, Any]:
    """Correct what the model says by one trusted fact."""
    view, fact = service.access.editing(person, service.ledger), service.trusted.fact(line)
    outcome = await service.theatre.correct(view, fact, accept=body.yes)
    await asyncio.to_thread(service.engine.follow)
    service.metrics.operations.labels(outcome.status).inc()
    return outcome.to_json()


@router.post("/knowledge", tags=["edits"])
async def knowledge(body: schemas.Subject, service: Served, view: View) -> dict[str, Any]:
    """What the model says about a subject."""
    return {"subject": body.subject, "facts": await service.theatre.known(view, body.subject)}


@router.post("/plan", tags=["edits"])
async def plan(body: schemas.Text, service: Served, person: Asking, view: View) -> dict[str, Any]:
    """What a request would edit and check; nothing is changed."""
    service.access.require(person, "member")
    return await service.theatre.plan(view, body.text)


@router.get("/me", tags=["people"])
def me(person: Asking) -> dict[str, Any]:
    """Who the server takes the asker for."""
    return {"name": person.name, "role": person.role}

"""The application: routes, errors in OpenAI's shape, safe headers, and the page's files."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from repair import __version__
from repair.errors import RepairError
from repair.server.routes import person_of, router, service_of
from repair.server.schemas import openai_error
from repair.server.service import Service

MOST_BYTES = 4 << 20
_log = logging.getLogger("repair.server")
# The page loads nothing from elsewhere and runs nothing that stands in it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def create_app(service: Service) -> FastAPI:
    """The server over ``service``; whoever made the service closes it."""
    app = FastAPI(
        title="RePAIR",
        version=__version__,
        summary="Talk to a language model, and tell it in plain words to forget.",
        docs_url=None,
        redoc_url=None,
        max_body_size=MOST_BYTES,
    )
    app.state.service = service
    app.include_router(router)
    app.add_api_route("/healthz", _health, tags=["service"], methods=["GET"])
    app.add_api_route("/metrics", _metrics, tags=["service"], methods=["GET"])
    page = Path(str(files("repair.server").joinpath("page")))
    app.add_api_route("/", lambda: FileResponse(page / "index.html"), include_in_schema=False)
    app.add_api_route("/docs", lambda: FileResponse(page / "docs.html"), include_in_schema=False)
    app.mount("/page", StaticFiles(directory=page), name="page")
    app.add_exception_handler(RepairError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)
    app.middleware("http")(_around)
    return app


async def _around(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    """Safe headers on every reply, and its count."""
    response = await call(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    route = request.scope.get("route")
    path = getattr(route, "path", "other")
    service_of(request).metrics.requests.labels(path, str(response.status_code)).inc()
    return response


def _health(request: Request) -> dict[str, Any]:
    """Whether the server can answer: its model and the ledger's last event."""
    service = service_of(request)
    return {
        "status": "ok",
        "model": service.engine.name,
        "version": __version__,
        "state": service.ledger.state_token(),
    }


def _metrics(request: Request) -> Response:
    """Counts and seconds for Prometheus."""
    person_of(request)
    service = service_of(request)
    active = [edit for edit in service.ledger.history() if edit.state == "active"]
    service.metrics.active.set(len(active))
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _refused(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RepairError):
        raise error
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else {}
    if error.http_status == 429:
        headers["Retry-After"] = "5"
    body = openai_error(str(error), error.code, error.http_status)
    return JSONResponse(body, error.http_status, headers)


def _malformed(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    text = f"{where}: {first['msg']}." if where else f"{first['msg']}."
    body = openai_error(text.encode("utf-8", "replace").decode(), "invalid_request", 400)
    body["error"]["param"] = where.encode("utf-8", "replace").decode() or None
    return JSONResponse(body, 400)


def _http(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    body = openai_error(
        f"{error.detail}.", code.get(error.status_code, "invalid_request"), error.status_code
    )
    return JSONResponse(body, error.status_code, dict(error.headers or {}))


def _fault(request: Request, error: Exception) -> JSONResponse:
    _log.error("A fault while answering %s", request.url.path, exc_info=error)
    text = "Something unexpected happened; the server's log says what."
    return JSONResponse(openai_error(text, "internal_error", 500), 500)

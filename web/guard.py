"""What holds for every route: the token, the security headers, and errors that are named and lead somewhere."""

import secrets
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pipeline import core
from pipeline.redact import redact

Handler = Callable[[Request], Awaitable[Response]]

GUARDED = ("/v1/", "/metrics")
OPEN_PATH = "/v1/health/live"  # the only /v1 route that never asks for the token
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Conflict(core.LongwatchError):
    """The name is taken."""


class NoRoom(core.LongwatchError):
    """A camera more than the prefill plane can watch."""


class Busy(core.LongwatchError):
    """More questions wait than will be answered soon."""


class NoAnswer(core.LongwatchError):
    """The model had nothing to say, which is a failure and not an answer."""


class NotReady(core.LongwatchError):
    """This process cannot do that now."""


class UnknownRule(core.LongwatchError):
    """A rule that does not exist."""


STATUS: dict[type[core.LongwatchError], tuple[int, str | None]] = {
    core.UnknownCamera: (404, "GET /v1/streams lists the cameras."),
    core.NoMemory: (404, "Ask about a longer or another time, or look at GET /v1/streams for what is remembered."),
    UnknownRule: (404, "GET /v1/rules lists the rules."),
    core.BadCamera: (422, None),
    core.BadSpan: (422, None),
    Conflict: (409, "Remove the old one first, or choose another id."),
    NoRoom: (409, "Lower the fps of this camera or of others, or give the prefill plane a GPU or a machine of its own."),
    Busy: (429, "Ask again in a moment; a second decode replica answers more at a time."),
    core.TooLate: (504, "Ask about fewer cameras or a shorter time, or see in GET /metrics what keeps the decode plane busy."),
    NoAnswer: (502, "Ask again, or in other words."),
    core.StoreUnavailable: (503, "Check that Redis runs and can be reached; nothing that was acknowledged is lost."),
    NotReady: (503, None),
}
HTTP_NAMES = {404: "UnknownPath", 405: "MethodNotAllowed"}


class Failure(BaseModel):
    """What went wrong: a name for programs, words for people, and what to do about it."""

    type: str
    message: str
    hint: str | None = None


class FailureOut(BaseModel):
    """Every error as it is sent."""

    error: Failure


def failure(status: int, kind: str, message: str, hint: str | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as it is sent; no credential in it."""
    return sent(status, FailureOut(error=Failure(type=kind, message=redact(message), hint=hint)), headers)


def sent(status: int, body: FailureOut, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error on its way."""
    return JSONResponse(body.model_dump(exclude_none=True), status, headers)


def known(error: Exception) -> tuple[int, FailureOut]:
    """The status and the body of an error that Longwatch has a name for; no credential in it."""
    kind = next((k for k in type(error).__mro__ if k in STATUS), None)
    status, hint = STATUS[kind] if kind else (500, None)
    return status, FailureOut(error=Failure(type=type(error).__name__, message=redact(str(error)), hint=hint))


def protect(app: FastAPI, token: str | None) -> None:
    """Refuse what may not come in, whatever the route: a new route is protected without its author thinking of it."""

    @app.middleware("http")
    async def guard(request: Request, proceed: Handler) -> Response:
        refusal = refuse(request, token)
        response = refusal if refusal is not None else await proceed(request)
        response.headers.update(HEADERS)
        return response


def refuse(request: Request, token: str | None) -> Response | None:
    """The answer to a request that may not come in, or None."""
    if not request.url.path.startswith(GUARDED) or request.url.path == OPEN_PATH:
        return None
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return failure(403, "Forbidden", "another site's page may not use this API from a browser")
    if token is None:
        return None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), token.encode()):
        return None
    hint = "Send the header 'Authorization: Bearer TOKEN'."
    return failure(401, "Unauthorized", "this needs the access token", hint, {"WWW-Authenticate": "Bearer"})


def explain(app: FastAPI) -> None:
    """Give every error the one shape `{"error": {type, message, hint?}}`."""
    app.add_exception_handler(core.LongwatchError, known_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unknown_error)


async def known_error(_: Request, error: Exception) -> Response:
    """An error that Longwatch has a name for."""
    status, body = known(error)
    return sent(status, body, {"Retry-After": "2"} if status in (429, 503) else None)


async def invalid(_: Request, error: Exception) -> Response:
    """A request that cannot be read; what was sent is not repeated, since it may hold a password."""
    assert isinstance(error, RequestValidationError)
    messages = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "path", "query"))
        what = problem["msg"].removeprefix("Value error, ")
        messages.append(f"{where}: {what}" if where else what)
    return failure(422, "Invalid", "; ".join(messages))


async def http_error(request: Request, error: Exception) -> Response:
    """A path or a method that does not exist."""
    assert isinstance(error, HTTPException)
    kind = HTTP_NAMES.get(error.status_code, "HttpError")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return failure(error.status_code, kind, message, "GET /v1/openapi.json lists what there is.", error.headers)


async def unknown_error(_: Request, __: Exception) -> Response:
    """A defect; its text stays in the log, since nobody knows what it holds."""
    return failure(500, "Internal", "something failed here; the server's log says what")

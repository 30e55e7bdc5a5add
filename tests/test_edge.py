"""What the proxy says when the API cannot."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.edge import Explained
from web.guard import HEADERS


def said(app: ASGIApp, path: str = "/v1/ask") -> httpx.Response:
    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Explained(app)), base_url="http://site") as client:
            return await client.get(path)

    return asyncio.run(get())


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """What the proxy does when the replica it asked was killed."""


def serving(status: int, text: str, headers: dict[str, str]) -> FastAPI:
    app = FastAPI()

    @app.get("/{path:path}")
    def serve(path: str) -> Response:
        return Response(text, status, headers)

    return app


@pytest.mark.parametrize("app", [silent, serving(404, "Path '/v1/ask' not found.", {}), serving(503, "no replicas", {})])
def test_what_is_not_the_apis_becomes_a_refusal_with_a_reason(app: ASGIApp) -> None:
    reply = said(app)
    assert (reply.status_code, reply.json()["error"]["type"], reply.headers["Retry-After"]) == (503, "NotReady", "2")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("status", [200, 404, 500])
def test_what_the_api_says_passes_untouched(status: int) -> None:
    reply = said(serving(status, "words", HEADERS))
    assert (reply.status_code, reply.text) == (status, "words")


def test_the_proxys_own_paths_are_its_own() -> None:
    assert said(serving(200, "success", {}), "/-/healthz").text == "success"

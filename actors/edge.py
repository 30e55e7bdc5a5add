"""What Serve's proxy says while no process of the API can: a refusal in the same words as every other."""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.guard import HEADERS, failure

OWN = next(iter(HEADERS)).lower().encode()  # a header of everything that the API sends
SERVE_PATHS = "/-/"  # where the proxy tells of itself


def middlewares() -> list[Middleware]:
    """For RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(Explained)]


class Explained:
    """Puts a named error in the place of what is not the API's: plain text of the proxy, or nothing when a replica was killed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["path"].startswith(SERVE_PATHS):
            await self._app(scope, receive, send)
            return
        begun = False

        async def pass_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = any(name.lower() == OWN for name, _ in message["headers"])
            if begun:
                await send(message)

        await self._app(scope, receive, pass_on)
        if not begun:
            refusal = failure(503, "NotReady", "the API is starting, ending or being replaced", None, {"Retry-After": "2"} | HEADERS)
            await refusal(scope, receive, send)

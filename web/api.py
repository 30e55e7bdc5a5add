"""The analyst API and the page: plain FastAPI over a registry, a store and a function that answers; no Ray, no Redis."""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path as FilePath
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, FastAPI, Path, Query, Response
from fastapi.responses import FileResponse, PlainTextResponse

from pipeline.core import Alert, BadCamera, Camera, CameraPhase, CameraStatus, Mode, NoMemory, Rule, TimeRange, UnknownCamera
from web import memory
from web.asking import Ask, questions
from web.guard import Conflict, FailureOut, NoRoom, NotReady, UnknownRule, explain, protect
from web.schemas import AlertOut, Id, RuleBody, RuleOut, StreamBody, StreamOut, iso, uri_parts

CAMERA_SCHEMES = ("rtsp", "rtsps", "http", "https")
FILE_SCHEMES = ("file", "")  # "" is a plain path
FAILURES: dict[int | str, dict[str, Any]] = {"4XX": {"model": FailureOut}, "5XX": {"model": FailureOut}}
PAGE = FilePath(__file__).parent

Scrape = Callable[[], Awaitable[bytes]]
CameraPath = Annotated[Id, Path()]
TimePath = Annotated[int, Path(ge=0, lt=10**13)]


class Registry(memory.Registry, Protocol):
    """What is watched and watched for. Every call may block, and raises StoreUnavailable when it cannot be served."""

    def cameras(self) -> list[Camera]:
        """Every camera."""

    def add_camera(self, camera: Camera, /) -> None:
        """Watch a camera."""

    def remove_camera(self, camera_id: str, /) -> bool:
        """Stop watching; False when it was not watched."""

    def statuses(self) -> dict[str, CameraStatus]:
        """What the ingest reported last, by camera id."""

    def rules(self) -> list[Rule]:
        """Every rule."""

    def add_rule(self, rule: Rule, /) -> None:
        """Watch for a condition."""

    def remove_rule(self, rule_id: str, /) -> bool:
        """Stop watching for it; False when it was unknown."""

    def alerts(self, limit: int, /) -> list[Alert]:
        """The newest alerts, newest first."""


class Store(memory.Store, Protocol):
    """What is remembered. Every call may block, and raises StoreUnavailable when it cannot be served."""

    def picture(self, camera_id: str, at_ms: int, /) -> bytes | None:
        """The JPEG of exactly that time."""

    def newest_picture(self, camera_id: str, /) -> tuple[int, bytes] | None:
        """The newest JPEG and its time."""

    def span(self, camera_id: str, /) -> TimeRange | None:
        """From the oldest to the newest that is remembered."""

    def forget(self, camera_id: str, /) -> int:
        """Delete everything of a camera; how many carriers and pictures there were."""

    def ping(self) -> object:
        """Return when the store answers."""


def create_app(
    registry: Registry,
    store: Store,
    ask: Ask | None,
    *,
    mode: Mode | None = None,
    scrape: Scrape | None = None,
    token: str | None = None,
    allow_files: bool = False,
) -> FastAPI:
    """The API and its page. Without `ask` (a process that only watches) questions are refused; with `token`, /v1 and /metrics need it.

    `mode` is that of the model which answers. `scrape` gives what /metrics answers, in Prometheus' text format 0.0.4; without it there is
    no such path. `allow_files` lets clients name files of this machine as cameras: for a demo on one's own machine only.
    """
    app = FastAPI(title="Longwatch", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json", responses=FAILURES)
    routers = (questions(ask), streams(registry, store, allow_files), frames(registry, store), rules(registry), health(store, ask, mode))
    for router in (*routers, memory.memory(registry, store)):
        app.include_router(router, prefix="/v1")
    if scrape:
        app.include_router(metrics(scrape))
    app.include_router(page())
    protect(app, token)
    explain(app)
    return app


def admit(camera: Camera, statuses: Iterable[CameraStatus]) -> None:
    """Raises NoRoom for a camera that would not fit, as far as that can be foreseen."""
    room = min((status.room for status in statuses if status.room is not None), default=None)
    if room is not None and camera.fps > room:
        raise NoRoom(f"{camera.id} wants {camera.fps:g} pictures a second, and the prefill plane has room for {room:.1f} more")


def streams(registry: Registry, store: Store, allow_files: bool) -> APIRouter:
    """The cameras."""
    router = APIRouter(prefix="/streams")
    schemes = CAMERA_SCHEMES + FILE_SCHEMES if allow_files else CAMERA_SCHEMES

    @router.get("")
    def list_streams() -> dict[str, list[StreamOut]]:
        statuses = registry.statuses()
        return {"streams": [StreamOut.of(c, statuses.get(c.id), store.span(c.id)) for c in registry.cameras()]}

    @router.post("", status_code=201)
    def add_stream(body: StreamBody) -> StreamOut:
        check_uri(body.uri, schemes)
        camera = Camera(id=body.id, uri=body.uri, fps=body.fps, still_s=body.still_s)
        if any(c.id == camera.id for c in registry.cameras()):
            raise Conflict(f"a camera with the id {camera.id} is watched already")
        admit(camera, registry.statuses().values())
        registry.add_camera(camera)
        return StreamOut.of(camera, CameraStatus(camera_id=camera.id, phase=CameraPhase.CONNECTING), store.span(camera.id))

    @router.delete("/{camera}")
    def remove_stream(camera: CameraPath, forget: bool = False) -> dict[str, str | bool | int]:
        removed = registry.remove_camera(camera)
        forgotten = store.forget(camera) + registry.forget(camera) if forget else 0
        if not removed and not forgotten:
            raise UnknownCamera(f"no camera {camera} is watched" + (" or remembered" if forget else ""))
        return {"id": camera, "removed": removed, "forgotten": forgotten}

    return router


def check_uri(uri: str, schemes: tuple[str, ...]) -> None:
    """Refuse what is not a camera on the network: a client must not read this machine's disk. Never repeats the URI."""
    try:
        scheme, host = uri_parts(uri)
    except ValueError as error:
        raise BadCamera(f"the camera's URI cannot be used: {error}") from None
    if scheme not in schemes or (scheme in CAMERA_SCHEMES and not host):
        raise BadCamera("the camera's URI must begin with rtsp://, rtsps://, http:// or https:// and a host; files only in longwatch.yaml")


def frames(registry: Registry, store: Store) -> APIRouter:
    """The pictures."""
    router = APIRouter(prefix="/frames")

    @router.get("/{camera}/latest.jpg", response_class=Response)
    def newest_frame(camera: CameraPath) -> Response:
        newest = store.newest_picture(camera)
        if newest is None:
            raise missing(camera, "")
        return picture(*newest, caching="no-store")

    @router.get("/{camera}/{at_ms}.jpg", response_class=Response)
    def frame(camera: CameraPath, at_ms: TimePath) -> Response:
        jpeg = store.picture(camera, at_ms)
        if jpeg is None:
            raise missing(camera, f" of {iso(at_ms)}")
        return picture(at_ms, jpeg, caching="private, max-age=31536000, immutable")

    def missing(camera: str, when: str) -> UnknownCamera | NoMemory:
        if store.span(camera) is None and all(c.id != camera for c in registry.cameras()):
            return UnknownCamera(f"no camera {camera} is or was watched")
        return NoMemory(f"no picture of {camera}{when} is kept")

    return router


def picture(at_ms: int, jpeg: bytes, *, caching: str) -> Response:
    """A JPEG and the time it was taken at."""
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": caching, "Longwatch-At-Ms": str(at_ms)})


def rules(registry: Registry) -> APIRouter:
    """What is watched for, and what came of it."""
    router = APIRouter()

    @router.get("/rules")
    def list_rules() -> dict[str, list[RuleOut]]:
        return {"rules": [RuleOut.of(rule) for rule in registry.rules()]}

    @router.post("/rules", status_code=201)
    def add_rule(body: RuleBody) -> RuleOut:
        rule = body.rule(made_id=f"rule-{secrets.token_hex(4)}")
        if unknown := sorted(set(rule.cameras) - {c.id for c in registry.cameras()}):
            raise UnknownCamera(f"no camera {', '.join(unknown)} is watched, so the rule would never hold")
        if any(r.id == rule.id for r in registry.rules()):
            raise Conflict(f"a rule with the id {rule.id} exists already")
        registry.add_rule(rule)
        return RuleOut.of(rule)

    @router.delete("/rules/{rule}")
    def remove_rule(rule: CameraPath) -> dict[str, str | bool]:
        if not registry.remove_rule(rule):
            raise UnknownRule(f"there is no rule {rule}")
        return {"id": rule, "removed": True}

    @router.get("/alerts")
    def list_alerts(limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, list[AlertOut]]:
        return {"alerts": [AlertOut.of(alert) for alert in registry.alerts(limit)]}

    return router


def health(store: Store, ask: Ask | None, mode: Mode | None) -> APIRouter:
    """Whether the process lives, and whether it can work."""
    router = APIRouter(prefix="/health")

    @router.get("/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/ready")
    def ready() -> dict[str, str | None]:
        store.ping()
        if ask is None:
            raise NotReady("this process does not answer questions")
        return {"status": "ready", "mode": mode}

    return router


def metrics(scrape: Scrape) -> APIRouter:
    """What Prometheus asks for."""
    router = APIRouter()

    @router.get("/metrics", response_class=PlainTextResponse)
    async def tell() -> Response:
        return Response(await scrape(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def page() -> APIRouter:
    """The page and its files; they hold no secret, so they need no token."""
    router = APIRouter(include_in_schema=False)
    for path, name in {"/": "page.html", "/page.js": "page.js", "/api.js": "api.js", "/page.css": "page.css"}.items():
        router.add_api_route(path, sender(PAGE / name), response_class=FileResponse)
    return router


def sender(file: FilePath) -> Callable[[], FileResponse]:
    """An endpoint that sends a file, asked about anew on every load so that an upgrade shows at once."""

    def send() -> FileResponse:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    return send

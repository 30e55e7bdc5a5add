"""A registry, a store and an answer in memory, for the tests of the API and of the page."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from PIL import Image, ImageDraw

from pipeline.core import (
    Alert,
    Answer,
    Camera,
    CameraPhase,
    CameraStatus,
    Evidence,
    Gap,
    Kept,
    NoMemory,
    Question,
    Rule,
    StoreUnavailable,
    TimeRange,
)
from web.api import create_app

T0 = 1_700_000_000_000
SECRET = "rtsp://user:secret@host/1"


def jpeg(text: str, colour: str = "#3b5b73") -> bytes:
    image = Image.new("RGB", (640, 360), colour)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 240, 640, 360), fill="#4d5357")
    draw.rectangle((220, 170, 420, 280), fill="#b8574a")
    draw.text((16, 12), text, fill="white", font_size=28)
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


def seen(camera_id: str, at_ms: int, score: float = 0.6) -> Evidence:
    return Evidence(camera_id=camera_id, at_ms=at_ms, span=TimeRange(start_ms=at_ms - 500, end_ms=at_ms + 500), score=score)


@dataclass
class FakeRegistry:
    cams: dict[str, Camera] = field(default_factory=lambda: {"gate": Camera(id="gate", uri=SECRET), "yard": Camera(id="yard", uri=SECRET)})
    ruleset: dict[str, Rule] = field(default_factory=dict)
    alerted: list[Alert] = field(default_factory=list)
    last_frame_ms: int = T0

    def cameras(self) -> list[Camera]:
        return list(self.cams.values())

    def add_camera(self, camera: Camera) -> None:
        self.cams[camera.id] = camera

    def remove_camera(self, camera_id: str) -> bool:
        return self.cams.pop(camera_id, None) is not None

    def statuses(self) -> dict[str, CameraStatus]:
        live = CameraStatus(camera_id="gate", phase=CameraPhase.LIVE, frames=7, last_frame_ms=self.last_frame_ms)
        lost = CameraStatus(camera_id="yard", phase=CameraPhase.LOST, dropped=2, reconnects=3, error=f"cannot reach {SECRET}: timed out")
        return {"gate": live, "yard": lost}

    def rules(self) -> list[Rule]:
        return list(self.ruleset.values())

    def add_rule(self, rule: Rule) -> None:
        self.ruleset[rule.id] = rule

    def remove_rule(self, rule_id: str) -> bool:
        return self.ruleset.pop(rule_id, None) is not None

    def ever(self) -> list[str]:
        return sorted(self.cams)

    def forget(self, camera_id: str, when: TimeRange | None = None) -> int:
        kept = [a for a in self.alerted if a.camera_id != camera_id or (when is not None and a.at_ms not in when)]
        removed, self.alerted = len(self.alerted) - len(kept), kept
        return removed

    def alerts(self, limit: int) -> list[Alert]:
        return self.alerted[:limit]


@dataclass
class FakeStore:
    pictures: dict[tuple[str, int], bytes] = field(default_factory=dict)
    down: bool = False

    def picture(self, camera_id: str, at_ms: int) -> bytes | None:
        self.ping()
        return self.pictures.get((camera_id, at_ms))

    def times(self, camera_id: str) -> list[int]:
        self.ping()
        return sorted(at for camera, at in self.pictures if camera == camera_id)

    def newest_picture(self, camera_id: str) -> tuple[int, bytes] | None:
        times = self.times(camera_id)
        return (times[-1], self.pictures[camera_id, times[-1]]) if times else None

    def span(self, camera_id: str) -> TimeRange | None:
        times = self.times(camera_id)
        return TimeRange(start_ms=times[0], end_ms=times[-1]) if times else None

    def forget(self, camera_id: str) -> int:
        return self.delete(camera_id, TimeRange(start_ms=0, end_ms=2**53))

    def delete(self, camera_id: str, span: TimeRange) -> int:
        times = [at for at in self.times(camera_id) if at in span]
        for at in times:
            del self.pictures[camera_id, at]
        return len(times)

    def kept(self, camera_id: str) -> Kept:
        lost = Gap(camera_id=camera_id, span=TimeRange(start_ms=T0, end_ms=T0 + 1), reason="lost")
        return Kept(camera_id=camera_id, span=self.span(camera_id), pictures=len(self.times(camera_id)), gaps=(lost,))

    def ping(self) -> None:
        if self.down:
            raise StoreUnavailable("cannot reach redis://:secret@redis:6379/0")


@dataclass
class FakeAsk:
    """Answers with the newest picture of the gate; remembers nothing of what is asked about with the word 'elephant'."""

    at_ms: int = T0
    text: str = "A red truck is at the gate."
    asked: list[Question] = field(default_factory=list)

    async def __call__(self, question: Question) -> AsyncGenerator[str | Answer, None]:
        self.asked.append(question)
        if "elephant" in question.text:
            raise NoMemory("nothing is remembered of gate between 08:00:00 and 09:00:00")
        for word in self.text.split(" ")[:-1]:
            yield f"{word} "
        yield self.answer()

    def answer(self) -> Answer:
        span = TimeRange(start_ms=self.at_ms - 60_000, end_ms=self.at_ms - 30_000)
        gap = Gap(camera_id="yard", span=span, reason=f"camera offline ({SECRET})")
        return Answer(
            text=self.text,
            probability=0.91,
            evidence=(seen("gate", self.at_ms), seen("gate", self.at_ms - 4000, 0.3)),
            gaps=(gap,),
            cameras=("gate", "yard"),
            carriers=48,
            model="f00d",
            mode="training-free",
            took_ms=132.4,
            first_ms=41.5,
        )


def call(app: FastAPI, method: str, path: str, **sent: Any) -> httpx.Response:
    """One request, without a server."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(send())


class Site:
    """The app over fakes; every answer it gives is searched for credentials."""

    def __init__(self, **options: Any) -> None:
        self.registry, self.store, self.ask = FakeRegistry(), FakeStore(), FakeAsk()
        self.store.pictures = {("gate", T0 - 4000): jpeg("gate -4 s"), ("gate", T0): jpeg("gate")}
        self.app = create_app(self.registry, self.store, options.pop("ask", self.ask), **options)

    def __call__(self, method: str, path: str, **sent: Any) -> httpx.Response:
        response = call(self.app, method, path, **sent)
        assert b"secret" not in response.content
        assert "secret" not in str(response.headers)
        return response

    def fails(self, method: str, path: str, **sent: Any) -> tuple[int, str]:
        response = self(method, path, **sent)
        error = response.json()["error"]
        assert error["message"]
        return response.status_code, error["type"]


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """A real server of it, and its address. It ends with the context, also where it talks on to somebody who is gone."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, daemon=True)  # or a test that fails would keep the whole run from its end
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive(), "the server did not end"

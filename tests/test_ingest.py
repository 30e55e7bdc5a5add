"""The supervisor of cameras: with scripted sources, and with a real server that dies."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest
from carriers import eventually
from rtsp_site import SiteProcess

from pipeline.core import Camera, CameraPhase, CameraStatus, Frame
from pipeline.errors import CameraLost
from pipeline.ingest import Backoff, Ingest, Pacing

PATIENCE_S = 60.0
PIXEL = np.zeros((2, 4, 3), np.uint8)
DOCK, GATE = Camera(id="dock", uri="rtsp://u:secret@dock/1"), Camera(id="gate", uri="rtsp://gate/1")


Script = Sequence[int | str | Exception]


@dataclass(slots=True)
class Scripted:
    """Plays its connections one after the other: a number is so many frames, an error ends one; then it stays silent."""

    camera: Camera
    connections: Iterator[Script]
    closed: threading.Event = field(default_factory=threading.Event)
    times: Iterator[int] = field(default_factory=count)

    def frames(self) -> Iterator[Frame]:
        for step in next(self.connections, [0, "stay"]):
            if isinstance(step, Exception):
                raise step
            for _ in range(step if isinstance(step, int) else 0):
                at_ms = next(self.times)
                yield Frame(camera_id=self.camera.id, pts_ns=at_ms, captured_ms=at_ms, image=PIXEL)
            if step == "stay":
                self.closed.wait(30)

    def close(self) -> None:
        self.closed.set()


class Clock:
    """Time that passes only by waiting; it stops the world after so many waits."""

    def __init__(self, waits: int = 100) -> None:
        self.now_s, self.waits, self.enough = 0.0, [], threading.Event()  # type: float, list[float], threading.Event
        self._limit = waits

    def wait(self, stopping: threading.Event, wait_s: float) -> bool:
        self.now_s += wait_s
        self.waits.append(wait_s)
        if len(self.waits) < self._limit:
            return stopping.is_set()
        self.enough.set()
        return stopping.wait(30)

    def pacing(self) -> Pacing:
        return Pacing(wait=self.wait, clock_s=lambda: self.now_s)


def scripted(*connections: Script) -> Callable[[Camera], Scripted]:
    return lambda camera: Scripted(camera, iter(connections))


def status(ingest: Ingest, phase: CameraPhase, camera_id: str = "dock") -> CameraStatus:
    """The status of a camera once it is in a phase."""
    found: list[CameraStatus] = []

    def reached() -> bool:
        found[:] = [one for one in ingest.statuses() if one.camera_id == camera_id]
        return found[0].phase is phase

    eventually(reached, PATIENCE_S)
    return found[0]


@pytest.fixture
def ingests() -> Iterator[list[Ingest]]:
    """Closed at the end of the test, whatever comes."""
    opened: list[Ingest] = []
    yield opened
    for ingest in opened:
        ingest.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("camera-")]


def test_a_lost_camera_is_tried_for_ever_and_never_in_a_hurry(ingests: list[Ingest]) -> None:
    clock = Clock(waits=200)
    ingest = Ingest(source=lambda camera: Scripted(camera, ([CameraLost("off")] for _ in count())), pacing=clock.pacing())
    ingests.append(ingest)
    ingest.reconcile([DOCK])
    assert clock.enough.wait(PATIENCE_S)
    assert min(clock.waits) >= 0.1 and max(clock.waits) <= 30
    assert np.mean(clock.waits[20:]) == pytest.approx(15, abs=4), "full jitter under a ceiling of 30 s"
    assert status(ingest, CameraPhase.LOST).error == "off"


@pytest.mark.parametrize(("live_s", "ceiling_s"), [(9.9, 30), (10.0, 0.5)])
def test_only_a_healthy_camera_resets_the_backoff(live_s: float, ceiling_s: float) -> None:
    waits = []
    for _ in range(200):
        backoff = Backoff()
        for _ in range(10):
            backoff.next_s(0)
        waits.append(backoff.next_s(live_s))
    assert 0.8 * ceiling_s < max(waits) <= ceiling_s


def test_it_goes_on_after_any_error_and_counts_reconnects(ingests: list[Ingest]) -> None:
    script = scripted([3, CameraLost("off")], [ValueError("odd")], [1, CameraLost("off")], [2, "stay"])
    ingest = Ingest(source=script, pacing=Clock().pacing())
    ingests.append(ingest)
    ingest.reconcile([DOCK])
    eventually(lambda: ingest.statuses()[0].dropped == 4, PATIENCE_S)  # the last is handed over
    now = status(ingest, CameraPhase.LIVE)
    assert (now.reconnects, now.error, now.last_frame_ms) == (2, None, 5)
    assert [frame.captured_ms for _ in range(2) for frame in ingest.take(9, 1)] == [4, 5]
    assert status(ingest, CameraPhase.LIVE).frames == 2


def test_a_camera_that_is_live_has_a_last_frame_of_this_connection(ingests: list[Ingest], caplog: pytest.LogCaptureFixture) -> None:
    told: list[int | None] = []
    clock = Clock(waits=2)
    ingest = Ingest(source=scripted([3, CameraLost("off")], [2, CameraLost("off")]), pacing=clock.pacing())
    ingests.append(ingest)
    caplog.set_level(logging.INFO, "pipeline.ingest")

    def ask_just_then(record: logging.LogRecord) -> bool:
        if record.getMessage().endswith(": live"):
            told.append(ingest.statuses()[0].last_frame_ms)
        return True

    caplog.handler.addFilter(ask_just_then)
    ingest.reconcile([DOCK])
    assert clock.enough.wait(PATIENCE_S)
    caplog.handler.removeFilter(ask_just_then)
    assert told == [0, 3]


def test_no_password_in_an_error(ingests: list[Ingest], caplog: pytest.LogCaptureFixture) -> None:
    def broken(camera: Camera) -> Scripted:
        raise RuntimeError(f"cannot open {camera.uri}")

    ingest = Ingest(source=broken, pacing=Clock().pacing())
    ingests.append(ingest)
    ingest.reconcile([DOCK])
    assert status(ingest, CameraPhase.LOST).error == "RuntimeError: cannot open rtsp://***@dock/1"
    ingest.close()
    assert "secret" not in caplog.text and "Traceback" in caplog.text


def test_a_file_that_ended_is_not_played_again(ingests: list[Ingest]) -> None:
    clock = Clock()
    ingest = Ingest(source=scripted([2], [CameraLost("played again")]), pacing=clock.pacing())
    ingests.append(ingest)
    ingest.reconcile([DOCK])
    status(ingest, CameraPhase.ENDED)
    ingest.reconcile([DOCK])
    assert status(ingest, CameraPhase.ENDED).error is None and clock.waits == []
    assert len(ingest.take(1, 0)) == 1, "what it gave is still to be had"


def test_cameras_come_go_and_change_at_run_time(ingests: list[Ingest]) -> None:
    made: list[Scripted] = []

    def make(camera: Camera) -> Scripted:
        made.append(Scripted(camera, iter([[2, "stay"]])))
        return made[-1]

    ingest = Ingest(source=make)
    ingests.append(ingest)
    for cameras in ([DOCK], [DOCK, GATE], [DOCK, GATE]):
        ingest.reconcile(cameras)
        for camera in cameras:
            status(ingest, CameraPhase.LIVE, camera.id)
    assert [one.camera for one in made] == [DOCK, GATE], "what did not change is not disturbed"
    faster = Camera(id="dock", uri=DOCK.uri, fps=2)
    ingest.reconcile([faster, GATE])
    status(ingest, CameraPhase.LIVE)
    assert made[0].closed.is_set() and not made[1].closed.is_set() and made[2].camera == faster
    ingest.reconcile([GATE])
    assert [one.camera_id for one in ingest.statuses()] == ["gate"] and made[2].closed.is_set()
    assert {frame.camera_id for patience_s in (PATIENCE_S, 0, 0, 0) for frame in ingest.take(9, patience_s)} == {"gate"}


def test_a_camera_that_waits_to_reconnect_leaves_at_once(ingests: list[Ingest]) -> None:
    ingest = Ingest(source=scripted([CameraLost("off")]), pacing=Pacing(backoff=lambda: Backoff(start_s=60, cap_s=60, floor_s=60)))
    ingests.append(ingest)
    ingest.reconcile([DOCK])
    status(ingest, CameraPhase.LOST)
    ingest.close()  # joins for up to 10 s, then the fixture finds the thread
    assert ingest.statuses() == []


@pytest.mark.gst
def test_a_server_that_was_killed_and_came_back_is_found_again(ingests: list[Ingest]) -> None:
    site = SiteProcess()
    cameras = [Camera(id=codec, uri=site.uri(codec), fps=4) for codec in ("h264", "mjpeg")]
    ingest = Ingest(pacing=Pacing(backoff=lambda: Backoff(cap_s=0.5)))
    ingests.append(ingest)
    ingest.reconcile(cameras)
    status(ingest, CameraPhase.LIVE, "h264")
    status(ingest, CameraPhase.LIVE, "mjpeg")
    site.kill()
    lost = status(ingest, CameraPhase.LOST, "h264")
    assert lost.error and status(ingest, CameraPhase.LOST, "mjpeg").error
    with SiteProcess(port=site.port):
        now = status(ingest, CameraPhase.LIVE, "h264")
        assert now.reconnects >= 1 and now.last_frame_ms and lost.last_frame_ms and now.last_frame_ms > lost.last_frame_ms
        status(ingest, CameraPhase.LIVE, "mjpeg")
        ingest.reconcile(cameras[1:])
        while ingest.take(9, 0):
            pass
        assert {frame.camera_id for _ in range(4) for frame in ingest.take(9, PATIENCE_S)} == {"mjpeg"}

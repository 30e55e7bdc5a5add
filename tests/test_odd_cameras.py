"""Cameras that misbehave while they are watched, all at once, over real RTSP: what is said of each; the others notice nothing."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from odd_camera import FPS, OddCamera

from pipeline.camera import GstSource
from pipeline.core import Camera, CameraPhase, Frame
from pipeline.ingest import Backoff, Ingest, Pacing

pytestmark = pytest.mark.gst

SILENCE_S = 3.0
PATIENCE_S = 80.0
UNTOUCHED = ("plain", "first in line")


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """What a camera begins to do, and what is then said of it; None: nothing, it is never lost."""

    change: dict[str, Any]
    said: str | None


ODDITIES = {
    "stalls": Oddity(change={"does": "stalls"}, said=r"no picture for 3 s: it is silent"),
    "garbage": Oddity(change={"does": "garbage"}, said=r"no picture for 3 s|what it sends is damaged"),
    "nonsense": Oddity(change={"does": "nonsense"}, said=r"does not speak RTSP: check the host and the port"),
    "mute": Oddity(change={"does": "mute"}, said=r"says nothing: restart the camera"),
    "refuses": Oddity(change={"does": "refuses"}, said=r"refuses the user name or the password \(401\)"),
    "unknown codec": Oddity(change={"sends": "vp8"}, said=r"sends VP8, which cannot be read here: set it to H\.264"),
    "to H.265": Oddity(change={"sends": "h265"}, said=r"no picture for 3 s|what it sends is damaged"),
    "to Motion JPEG": Oddity(change={"sends": "mjpeg"}, said=r"no picture for 3 s|what it sends is damaged"),
    "larger": Oddity(change={"sends": "large"}, said=None),
    "clock back": Oddity(change={"ahead_s": -100.0}, said=None),
    "clock ahead": Oddity(change={"ahead_s": 3600.0}, said=None),
}
COMES_BACK_ANYHOW = ("to H.265", "to Motion JPEG", "larger", "clock back", "clock ahead")


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was seen of one camera, by the machine's time."""

    frames: list[tuple[float, Frame]] = field(default_factory=list)
    phases: list[tuple[float, CameraPhase, str | None]] = field(default_factory=list)  # whenever it changed

    def since(self, at_s: float) -> list[Frame]:
        return [frame for came_s, frame in self.frames if came_s > at_s]

    def said(self, from_s: float = 0) -> list[str]:
        return [error for at_s, _, error in self.phases if error and at_s > from_s]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """All of them: well, then odd from `odd_s` on, then well again from `well_s` on."""

    seen: dict[str, Seen]
    odd_s: float
    well_s: float


class Noted(GstSource):
    """Notes each frame as it comes, whoever takes it when."""

    def __init__(self, camera: Camera, seen: Seen) -> None:
        super().__init__(camera, silence_s=SILENCE_S)
        self._seen = seen

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            self._seen.frames.append((time.time(), frame))
            yield frame


class Watching:
    """Notes what becomes of each camera."""

    def __init__(self, cameras: dict[str, OddCamera]) -> None:
        pacing = Pacing(backoff=lambda: Backoff(cap_s=0.5))
        self._names = {f"c{number}": name for number, name in enumerate(cameras)}
        self.seen = {name: Seen() for name in cameras}
        self._ingest = Ingest(source=lambda camera: Noted(camera, self.seen[self._names[camera.id]]), pacing=pacing)
        self._ingest.reconcile([Camera(id=id_, uri=cameras[name].uri, fps=4, still_s=0) for id_, name in self._names.items()])

    def until(self, reached: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not reached() and time.monotonic() < deadline_s:  # what was not reached is for the tests to say
            self._ingest.take(99, 0.1)
            now_s = time.time()
            for status in self._ingest.statuses():
                seen, now = self.seen[self._names[status.camera_id]], (status.phase, status.error)
                if not seen.phases or seen.phases[-1][1:] != now:
                    seen.phases.append((now_s, *now))

    def close(self) -> None:
        self._ingest.close()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with ExitStack() as stack:
        cameras = {name: stack.enter_context(OddCamera()) for name in (UNTOUCHED[1], *ODDITIES, UNTOUCHED[0])}
        watching = Watching(cameras)
        stack.callback(watching.close)
        seen = watching.seen
        watching.until(lambda: all(len(each.frames) > FPS for each in seen.values()))
        odd_s = time.time()
        for name, oddity in ODDITIES.items():
            for what, to in oddity.change.items():
                setattr(cameras[name], what, to)
        watching.until(lambda: all(_as_expected(name, seen[name], odd_s) for name in ODDITIES))
        well_s = time.time()
        for name in ODDITIES:
            cameras[name].sends, cameras[name].does, cameras[name].ahead_s = "h264", "well", 0.0
        watching.until(lambda: all(len(each.since(well_s + 1)) > FPS for each in seen.values()))
        yield Watched(seen=seen, odd_s=odd_s, well_s=well_s)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("camera-")]


def _as_expected(name: str, seen: Seen, odd_s: float) -> bool:
    said = ODDITIES[name].said
    goes_on = name not in COMES_BACK_ANYHOW or len(seen.since(max(odd_s, seen.phases[-1][0]))) > FPS
    return goes_on and (said is None or any(re.search(said, error) for error in seen.said(odd_s)))


@pytest.mark.parametrize("name", ODDITIES)
def test_what_is_wrong_with_a_camera_is_said_in_words_of_people(watched: Watched, name: str) -> None:
    said, wanted = watched.seen[name].said(watched.odd_s), ODDITIES[name].said
    if wanted is None:
        assert not said, "it is never lost"
    else:
        assert any(re.search(wanted, error) for error in said), said


@pytest.mark.parametrize("name", ODDITIES)
def test_it_comes_back_by_itself_when_it_behaves(watched: Watched, name: str) -> None:
    seen = watched.seen[name]
    assert len(seen.since(watched.well_s + 1)) > FPS and seen.phases[-1][1:] == (CameraPhase.LIVE, None), seen.phases


@pytest.mark.parametrize("name", [*ODDITIES, *UNTOUCHED])
def test_its_pictures_are_never_from_another_time(watched: Watched, name: str) -> None:
    frames = watched.seen[name].frames
    late_s = [came_s - frame.captured_ms / 1000 for came_s, frame in frames]
    # A camera that stalls is asked anew after the silence; until then it may still send what it filmed meanwhile.
    assert min(late_s) > -0.01 and max(late_s) < SILENCE_S + 3, late_s
    assert np.diff([frame.captured_ms for _, frame in frames]).min() > 0


@pytest.mark.parametrize("tells_time", [True, False])
def test_what_a_camera_sends_all_at_once_after_a_pause_is_never_from_the_future(tells_time: bool) -> None:
    with OddCamera(tells_time=tells_time) as camera:
        watched = Camera(id="c", uri=camera.uri, fps=4, still_s=0)
        source, well_s, late_s = GstSource(watched, silence_s=PATIENCE_S, in_time=False), 0.0, list[float]()  # skips none
        for number, frame in enumerate(source.frames()):
            late_s.append(time.time() - frame.captured_ms / 1000)
            if number == FPS:  # its clock is known by now
                camera.does = "stalls"
                threading.Timer(SILENCE_S / 2, setattr, (camera, "does", "well")).start()
                well_s = time.monotonic() + SILENCE_S / 2
            if well_s and time.monotonic() > well_s + 1.5:
                break
    assert min(late_s) > -0.01, late_s
    assert max(late_s) > SILENCE_S / 2 - 0.5 or not tells_time, "it was filmed before it came"


def test_a_picture_that_grows_is_taken_as_it_is(watched: Watched) -> None:
    shapes = [frame.image.shape for _, frame in watched.seen["larger"].frames]
    assert list(dict.fromkeys(shapes)) == [(180, 320, 3), (480, 640, 3)] and shapes[-1] == (180, 320, 3)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_the_others_are_untouched(watched: Watched, name: str) -> None:
    seen = watched.seen[name]
    assert [phase for _, phase, _ in seen.phases][-1:] == [CameraPhase.LIVE] and not seen.said()
    came_s = np.array([came_s for came_s, _ in seen.frames])
    captured_s = np.array([frame.captured_ms for _, frame in seen.frames]) / 1000
    during = came_s > watched.odd_s
    assert np.diff(captured_s[during]).max() < 1.0, "four pictures a second are wanted of it"
    assert during.sum() > 3 * (came_s[-1] - watched.odd_s)

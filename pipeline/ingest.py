"""Watches all cameras at once: one thread each, reconnecting for ever and never in a hurry."""

import logging
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.core import Camera, CameraPhase, CameraStatus, Frame, LongwatchError
from pipeline.handover import Handover
from pipeline.pace import Pace
from pipeline.redact import redact
from pipeline.sampling import Thinned
from pipeline.sharing import Share, Sharing
from pipeline.stillness import StillGate

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where the frames of one camera come from."""

    def frames(self) -> Iterator[Frame]:
        """One connection: frames until CameraLost, or until a file has ended or `close` was called."""

    def close(self) -> None:
        """Make `frames` return soon. Called from another thread."""


def gst_source(camera: Camera) -> Source:
    """The source of a real camera; GStreamer is loaded only when there is one."""
    from pipeline.camera import GstSource

    return GstSource(camera)


@dataclass(slots=True, kw_only=True)
class Backoff:
    """How long to wait before connecting again: exponential, capped, with full jitter over a floor that keeps it from being tight."""

    start_s: float = 0.5
    cap_s: float = 30.0
    floor_s: float = 0.1
    healthy_s: float = 10.0  # a camera that was live so long starts afresh
    failures: int = 0

    def next_s(self, live_s: float) -> float:
        """The wait after a connection that was live for `live_s`."""
        self.failures = 0 if live_s >= self.healthy_s else self.failures
        ceiling_s = min(self.cap_s, self.start_s * 2 ** min(self.failures, 32))
        self.failures += 1
        return random.uniform(self.floor_s, max(self.floor_s, ceiling_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """What the supervisor knows of time; tests bring their own."""

    backoff: Callable[[], Backoff] = Backoff
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    clock_s: Callable[[], float] = time.monotonic


class Ingest:
    """The cameras being watched now, and the hand-over of their frames to the prefill plane. Thread-safe."""

    def __init__(
        self, *, source: Callable[[Camera], Source] = gst_source, handover: Handover | None = None, pacing: Pacing | None = None
    ) -> None:
        self._source, self._pacing = source, pacing or Pacing()
        self._handover = handover or Handover()
        self._sharing = Sharing(self._pacing.clock_s)
        self._pace = Pace(self._handover, self._pacing.clock_s, lambda: self._sharing.prefillers)
        self._watches: dict[str, _Watch] = {}
        self._changing = threading.Lock()

    def reconcile(self, cameras: Sequence[Camera]) -> None:
        """Watch exactly these cameras: new ones are added, missing ones removed, changed ones replaced; the rest are not disturbed."""
        wanted = {camera.id: camera for camera in cameras}
        with self._changing:
            leaving = [watch for id_, watch in self._watches.items() if wanted.get(id_) != watch.camera]
            for watch in leaving:
                watch.stop()
            for watch in leaving:
                watch.join()
                self._handover.forget(watch.camera.id)
            kept = {id_: watch for id_, watch in self._watches.items() if watch not in leaving}
            added = {
                id_: _Watch(camera, self._source, self._handover, self._pacing, self._pace)
                for id_, camera in wanted.items()
                if id_ not in kept
            }
            self._watches = {id_: kept.get(id_) or added[id_] for id_ in wanted}
            self._sharing.keep_only(wanted)
            for watch in added.values():
                watch.start()

    def take(self, limit: int, timeout_s: float) -> list[Frame]:
        """The next frames across cameras, for one who takes all: see `Handover.take`."""
        return self._handover.take(limit, timeout_s)

    def begin(self, term: int) -> None:
        """Number grants from here on: above those of any ingest before."""
        self._sharing.begin(term)

    def share(self, prefiller: str, holding: Mapping[str, int], limit: int, timeout_s: float) -> Share:
        """The next frames of one prefiller's own cameras, and which those are. `holding`: what it holds already, by number of grant."""
        self._sharing.come(prefiller, holding)
        try:
            frames = self._handover.take(limit, timeout_s, lambda camera_id: self._sharing.is_of(camera_id, prefiller))
        finally:
            self._sharing.leave(prefiller)
        grants = self._sharing.grants(prefiller)
        return Share(frames=[frame for frame in frames if frame.camera_id in grants], grants=grants)

    def look(self) -> None:
        """Sample all cameras less where prefill does not keep up, and more when it does again. To be called about once a second."""
        self._pace.look()

    def statuses(self) -> list[CameraStatus]:
        """Where each camera stands, in the order they were given."""
        return [watch.status() for watch in self._watches.values()]

    def close(self) -> None:
        """Stop watching, and leave no thread."""
        self.reconcile([])


class _Watch:
    """One camera's thread. Its fields are written by that thread alone."""

    def __init__(self, camera: Camera, source: Callable[[Camera], Source], handover: Handover, pacing: Pacing, pace: Pace) -> None:
        self.camera = camera
        self._make_source, self._handover, self._pacing = source, handover, pacing
        self._pace, self._thinned = pace, Thinned(camera.fps)
        self._source: Source | None = None
        self._gate = StillGate(camera.still_s)
        self._stopping = threading.Event()
        self._phase = CameraPhase.CONNECTING
        self._connections = 0  # that gave a frame
        self._live_s = 0.0  # from the first to the last frame of the connection
        self._last_frame_ms: int | None = None
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera-{camera.id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._source is not None:
            self._source.close()

    def join(self) -> None:
        self._thread.join(10)
        if self._thread.is_alive():
            log.error("camera %s: its thread does not end", self.camera.id)

    def status(self) -> CameraStatus:
        return CameraStatus(
            camera_id=self.camera.id,
            phase=self._phase,
            frames=self._handover.taken(self.camera.id),
            dropped=self._handover.dropped(self.camera.id),
            still=self._gate.still,
            share=self._pace.share,
            room=self._pace.room,
            reconnects=max(0, self._connections - 1),
            last_frame_ms=self._last_frame_ms,
            error=self._error,
        )

    def _run(self) -> None:
        backoff = self._pacing.backoff()
        while not self._stopping.is_set():
            try:
                self._watch()
                self._phase = CameraPhase.ENDED
                return
            except Exception as error:  # noqa: BLE001  (whatever is wrong with a camera, it is tried again and the others go on)
                self._lost(error)
            self._pacing.wait(self._stopping, backoff.next_s(self._live_s))

    def _watch(self) -> None:
        """One connection, to its end."""
        since_s, self._live_s = None, 0.0
        self._source = self._source or self._make_source(self.camera)  # kept: it keeps capture times growing
        if self._stopping.is_set():  # `stop` may have found no source to close
            return
        for frame in self._source.frames():
            if self._stopping.is_set():
                return
            self._last_frame_ms = frame.captured_ms
            if since_s is None:
                since_s = self._pacing.clock_s()
                self._went_live()
            self._live_s = self._pacing.clock_s() - since_s
            if self._thinned.takes(frame.captured_ms, self._pace.share) and self._gate.passes(frame):
                self._handover.offer(frame)

    def _went_live(self) -> None:
        self._connections += 1
        self._phase, self._error = CameraPhase.LIVE, None
        log.info("camera %s: live", self.camera.id)

    def _lost(self, error: Exception) -> None:
        known = isinstance(error, LongwatchError)
        reason = redact(str(error) if known else f"{type(error).__name__}: {error}")
        if reason != self._error:  # once per reason, not once per attempt
            trace = "" if known else redact("\n" + "".join(traceback.format_exception(error)))
            log.warning("camera %s: %s%s", self.camera.id, reason, trace)
        self._phase, self._error = CameraPhase.LOST, reason

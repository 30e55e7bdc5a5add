"""Which camera's frames go to which prefiller: every camera to one, about as many cameras to each."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pipeline.core import Frame

GONE_S = 5.0  # a prefiller that has not come for so long has gone,
SLOW = 4.0  # or for so many times as long as it was away the last time, if that is longer: a model may be slow
GRANTS = 1000  # a millisecond, by which terms are counted, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a prefiller is given: frames, and which cameras are its own, each with the number of its grant."""

    frames: list[Frame]
    grants: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """A camera's, to one prefiller. The latest of a camera has the highest number, by which the store tells who may write."""

    to: str
    number: int


@dataclass(slots=True, kw_only=True)
class _Prefiller:
    """One that has come for frames."""

    left_s: float | None = None  # None: it is here, and waits
    away_s: float = 0.0  # the last time, between two comings
    is_gone: bool = False


class Sharing:
    """Who prefills which camera. Thread-safe.

    A prefiller comes for frames, leaves with them, and comes again. One that does not come any more has gone, and its cameras go to the
    others; they are not moved without need. It keeps what it says it holds when this begins anew, or when it comes back, unless
    others have been given that by then. What it was refused (number 0) is granted anew.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._next = 1
        self._cameras: tuple[str, ...] | None = None  # not known yet
        self._grants: dict[str, _Grant] = {}
        self._prefillers: dict[str, _Prefiller] = {}

    def begin(self, term: int) -> None:
        """Grants are numbered above those of all earlier terms."""
        with self._lock:
            self._next = max(self._next, term * GRANTS)

    def keep_only(self, cameras: Collection[str]) -> None:
        """These are to be shared."""
        with self._lock:
            self._cameras = tuple(cameras)
            self._grants = {camera_id: grant for camera_id, grant in self._grants.items() if camera_id in cameras}

    def come(self, name: str, holding: Mapping[str, int]) -> None:
        """A prefiller comes, with the numbers of the cameras that it holds."""
        with self._lock:
            known = self._prefillers.get(name, _Prefiller(is_gone=True))
            if known.is_gone:
                self._adopt(name, holding)
            away_s = 0.0 if known.left_s is None else self._clock_s() - known.left_s
            self._prefillers[name] = _Prefiller(away_s=away_s)
            self._give_up_on_the_gone()
            self._grant_the_free()
            self._even_out(name)
            for camera_id, number in holding.items():
                if not number and self.is_of(camera_id, name):
                    self._grant(camera_id, name)

    def leave(self, name: str) -> None:
        """It leaves with its frames."""
        with self._lock:
            self._prefillers[name].left_s = self._clock_s()

    def is_of(self, camera_id: str, name: str) -> bool:
        """Whether a camera is this prefiller's."""
        grant = self._grants.get(camera_id)
        return grant is not None and grant.to == name

    def grants(self, name: str) -> dict[str, int]:
        """A prefiller's cameras, with the numbers of their grants."""
        with self._lock:
            return {camera_id: grant.number for camera_id, grant in self._grants.items() if grant.to == name}

    @property
    def prefillers(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._here())

    def _here(self) -> list[str]:
        return [name for name, prefiller in self._prefillers.items() if not prefiller.is_gone]

    def _adopt(self, name: str, holding: Mapping[str, int]) -> None:
        for camera_id, number in holding.items():
            known = self._cameras is None or camera_id in self._cameras
            if number and known and camera_id not in self._grants:
                self._grants[camera_id] = _Grant(to=name, number=number)
                self._next = max(self._next, number + 1)

    def _give_up_on_the_gone(self) -> None:
        now_s = self._clock_s()
        for prefiller in self._prefillers.values():
            if prefiller.left_s is not None and now_s - prefiller.left_s > max(GONE_S, SLOW * prefiller.away_s):
                prefiller.is_gone = True
        here = self._here()
        self._grants = {camera_id: grant for camera_id, grant in self._grants.items() if grant.to in here}

    def _grant_the_free(self) -> None:
        for camera_id in self._cameras or ():
            if camera_id not in self._grants:
                self._grant(camera_id, min(self._here(), key=self._load))

    def _even_out(self, giver: str) -> None:
        """Only who has come gives away: nothing of its last batch is under way."""
        least = min(self._here(), key=self._load)
        while self._load(giver) > self._load(least) + 1:
            own = [camera_id for camera_id, grant in self._grants.items() if grant.to == giver]
            self._grant(max(own, key=lambda camera_id: self._grants[camera_id].number), least)
            least = min(self._here(), key=self._load)

    def _load(self, name: str) -> int:
        return sum(grant.to == name for grant in self._grants.values())

    def _grant(self, camera_id: str, name: str) -> None:
        self._grants[camera_id] = _Grant(to=name, number=self._next)
        self._next += 1

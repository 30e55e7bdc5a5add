"""Simulated sites as clips: filmed when asked for, through H.264 as cameras do, with questions and their true answers."""

from random import Random

from model.adapting.clips import Asked, BadClip, Clip
from model.footage import TRAINING_SEEDS
from simulator.codec import through_h264
from simulator.questions import FAMILIES, Quiz, ask, describe
from simulator.render import render
from simulator.visits import CAMERAS
from simulator.watching import Watch, watch
from simulator.world import Site

KEEP = (1.0, 1.0, 0.75, 0.5)  # shares of the frames that a question is over
QUESTIONS = 12


class Simulated:
    """See `model.adapting.clips.Clips`: some seconds of one camera of a site, pictures a second apart."""

    def __init__(self, sites: int = 10_000, frames: int = 32) -> None:
        self._seeds, self._frames = TRAINING_SEEDS[:sites], frames

    def __len__(self) -> int:
        return len(self._seeds)

    def clip(self, index: int) -> Clip:
        """See `Clips`."""
        r = Random(f"clip {self._seeds[index]}")
        site, camera = Site(self._seeds[index]), r.choice(CAMERAS)
        start = r.uniform(0, 86_400)
        times = [start + r.random() / 2 + second for second in range(self._frames)]
        pictures = through_h264((render(site, camera, at) for at in times), quantizer=r.randint(20, 32))
        asked = tuple(each for _ in range(QUESTIONS) if (each := _asked(site, camera, times, r)))
        if not asked:
            raise BadClip(f"simulated site {self._seeds[index]}: there is nothing to ask about")
        return Clip(frames=pictures, asked=asked)


def _asked(site: Site, camera: str, times: list[float], r: Random) -> Asked | None:
    """A question over a random part of the frames, and what is true of that part."""
    keep = r.choice(KEEP)
    over = [i for i in range(len(times)) if r.random() < keep] or [len(times) - 1]
    seen: Watch = watch(site, [camera], [times[i] for i in over])
    quiz: Quiz | None = ask(seen, r, r.choice((*FAMILIES, describe)))
    return Asked(question=quiz.text, answer=quiz.answer, over=tuple(over)) if quiz else None

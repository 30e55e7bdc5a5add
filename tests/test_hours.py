"""What a model is taught about long memories: a subject among what is most easily mistaken for it."""

from itertools import islice
from random import Random

import numpy as np
import pytest

from model.hours import BUDGETS, MOVING, SHAPES, hours, misleading
from model.probe import SUBJECTS
from simulator.visits import CAMERAS
from simulator.watching import Shot, Subject
from simulator.world import Sighting

SITES, SECONDS = 40, 20
RED = Subject("car", "red")


@pytest.mark.parametrize("seed", range(20))
def test_what_resembles_a_subject_most_is_drawn_and_does_not_show_it(seed: int) -> None:
    r = np.random.default_rng(seed)
    shape = (SITES, 2, len(CAMERAS), SECONDS, len(SUBJECTS))
    told = np.zeros(shape, np.float32)
    told[r.random(shape) < 0.003], told[r.random(shape) < 0.003] = 1, np.nan
    resembling = r.normal(size=shape).astype(np.float16)
    subject, clips = misleading(resembling, told, Random(seed))
    about = SUBJECTS.index((subject.kind, subject.colour))
    shows = [np.any(told[site, mirrored, camera, :, about] != 0) for site, mirrored, camera, *_ in clips]
    frames = len(clips[0]) - 3
    assert about in MOVING and (frames, len(clips)) in SHAPES and not any(shows[1:])
    for site, mirrored, camera, *seconds in clips:
        assert seconds == list(range(seconds[0], seconds[0] + frames)) and seconds[0] >= 0 and seconds[-1] < SECONDS
        assert resembling[site, mirrored, camera, :, about].argmax() in seconds or shows[0]
    typical = np.median(resembling[..., about].max(-1))
    assert min(resembling[site, m, camera, :, about].max() for site, m, camera, *_ in clips[1:]) > typical


def shot(clip: int, second: int, colour: str) -> Shot:
    seen = Sighting(id="1", kind="car", colour=colour, heading=1, x=300, y=200, scale=1, moving=True, visible=1)
    return Shot(camera=CAMERAS[clip % 4], at=1000.0 * clip + second, sightings=(seen,))


@pytest.mark.parametrize(("frames", "clips"), SHAPES)
def test_passages_are_in_order_of_time_and_only_the_first_clip_shows_the_subject(frames: int, clips: int) -> None:
    filmed = [[shot(i, second, "blue" if i else "red") for second in range(frames)] for i in range(clips)]
    seen: list[tuple[bool, bool]] = []
    for each in islice(hours(filmed, RED, Random(1)), 100):
        assert [shot.at for shot in each.watch.shots] == sorted(shot.at for shot in each.watch.shots)
        assert len(each.context) == len(each.watch.shots) <= max(BUDGETS) + frames
        showing = [i for place, i in enumerate(each.context) if place in each.watch.clear(RED)]
        assert showing == [i for i in each.context if i < frames]
        assert len(each.watch.ids(Subject("car"))) == len({i // frames for i in each.context})  # nobody is in two clips
        quizzes = [quiz for family in each.families if (quiz := family(each.watch, Random(2)))]
        assert quizzes and all(quiz.about == (RED,) for quiz in quizzes)
        assert quizzes[0].answer == ("yes" if showing else "no")
        seen.append((bool(showing), len(each.watch.ids(Subject("car"))) == 1))
    there, alone = zip(*seen, strict=True)
    assert 30 < sum(there) < 70 and 20 < sum(alone) < 60
    assert 0 < sum(map(min, seen)) < sum(alone)  # of what is looked at alone, some shows it and some does not


def test_what_is_looked_at_alone_is_a_whole_passage() -> None:
    frames, clips = SHAPES[1]
    filmed = [[shot(i, second, "blue") for second in range(frames)] for i in range(clips)]
    lengths = [len(each.context) for each in islice(hours(filmed, RED, Random(2)), 50) if len({i // frames for i in each.context}) == 1]
    assert len(lengths) > 10 and set(lengths) == {frames}

"""The clock by which healing is timed: by value."""

import time

import pytest
from own_time import LEAST, WORTH, OwnTime, Used, speed


def used(at_s: float, busy_s: float, **ours_s: float) -> Used:
    return Used(at_s=at_s, busy_s=busy_s, ours_s={int(pid[1:]): used_s for pid, used_s in ours_s.items()})


@pytest.mark.parametrize(
    ("after", "ours"),
    [
        (used(10, 50), 1.0),  # nobody computes
        (used(10, 70, p1=25, p2=5), 1.0),  # we alone do, one of us since a moment ago
        (used(10, 70, p1=15), 0.5),  # half of both processors is another's
        (used(10, 60), 0.5),  # one of us is gone: what it used before is nobody's now
        (used(10, 70, p1=5), LEAST),
        (used(10, 55, p1=25), 1.0),  # our figures are newer than the machine's
    ],
)
def test_a_machine_is_as_fast_as_what_others_leave_of_it(after: Used, ours: float) -> None:
    assert speed(used(0, 50, p1=5), after, 2) == pytest.approx(ours**WORTH)


def test_own_time_goes_on_and_is_never_more_than_time() -> None:
    with OwnTime() as own:
        began_s = time.time()
        while len(own._own_s) < 3:
            time.sleep(0.01)
        ended_s = time.time()
        took_s = own.between(began_s, ended_s)
    assert LEAST**WORTH * (ended_s - began_s) < took_s <= ended_s - began_s + 0.001
    assert own.between(began_s, began_s) == 0

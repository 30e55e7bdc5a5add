"""A loop goes on whatever its step does, and stops when told."""

import threading
from collections.abc import Callable

import pytest

from pipeline.loop import LONGEST_WAIT_S, Loop

PATIENCE_S = 60.0


class Steps:
    """Counts its calls; those told to fail do."""

    def __init__(self, fails: Callable[[int], bool] = lambda n: False) -> None:
        self.calls = 0
        self._fails = fails
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.calls += 1
            self._changed.notify_all()
            if self._fails(self.calls):
                raise RuntimeError(f"step {self.calls}")

    def until(self, calls: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.calls >= calls, PATIENCE_S)


def test_it_steps_again_and_again_until_closed_and_not_after() -> None:
    steps = Steps()
    loop = Loop(steps, name="steps").start()
    steps.until(5)
    loop.close(PATIENCE_S)
    calls = steps.calls
    assert loop.failures == 0
    assert not any(thread.name == "steps" for thread in threading.enumerate())
    assert steps.calls == calls


def test_a_step_that_fails_is_told_of_and_tried_again() -> None:
    steps = Steps(lambda n: n <= 2)
    loop = Loop(steps, name="steps").start()
    steps.until(4)
    loop.close(PATIENCE_S)
    assert (loop.failures, loop.error) == (0, None)


def test_failures_in_a_row_are_counted_and_the_last_is_named() -> None:
    steps = Steps(lambda n: n >= 2)
    loop = Loop(steps, name="steps").start()
    steps.until(3)
    loop.close(PATIENCE_S)
    assert loop.failures == steps.calls - 1
    assert loop.error == f"RuntimeError: step {steps.calls}"


@pytest.mark.parametrize("every_s", [0.0, 0.5, 60.0])
def test_each_failure_in_a_row_is_waited_out_for_longer_up_to_a_bound(every_s: float) -> None:
    loop = Loop(lambda: None, name="idle", every_s=every_s)
    assert loop._pause() == every_s
    pauses = []
    for loop.failures in (1, 2, 3, 10, 1_000_000):
        pauses.append(loop._pause())
    assert pauses == sorted(pauses)
    assert pauses[0] > 0
    assert pauses[-1] == LONGEST_WAIT_S


def test_closing_does_not_wait_for_the_next_step() -> None:
    loop = Loop(Steps(), name="seldom", every_s=3600).start()
    loop.close(PATIENCE_S)
    assert not any(thread.name == "seldom" for thread in threading.enumerate())


def test_a_loop_that_never_began_can_be_closed() -> None:
    steps = Steps()
    Loop(steps, name="never").close()
    assert steps.calls == 0

"""bench.witnesses: what is found at a bound is what stands above the right share of what is not there."""

import numpy as np
import pytest

from bench.witnesses import FALSE, Weighed, alone, mean, row

TIMES = np.arange(5) * 1000


def passage(best: float, look: float, there: bool) -> Weighed:
    return Weighed(at_ms=TIMES, logits=np.array([-9, -9, best, -9, -9], np.float32), look=look, there=there)


def test_events_are_found_above_what_is_believed_falsely() -> None:
    others = [passage(best, 0, False) for best in (9, 4, 3, 2, 1, 0)]
    events = [passage(best, look, True) for best, look in ((10, 0), (2.5, 7), (-8, -8))]
    name, look, *found, by_odds, false = row([*others, *events], days=6, name="alone", reading=alone, look=0.0)
    third = pytest.approx(1 / 3)
    assert (name, look, FALSE) == ("alone", 0.0, (0.05, 0.2, 0.5))
    assert found == [third, third, pytest.approx(2 / 3)], "of six days none may be false, one, three"
    assert (by_odds, false) == (third, pytest.approx(1 / 6)), "what outweighs the passages of a day, 8.5"
    *_, by_both, false = row([*others, *events], days=6, name="alone", reading=alone, look=1.0)
    assert (by_both, false) == (pytest.approx(2 / 3), pytest.approx(1 / 6)), "a look that speaks for it"


def test_the_mean_of_three_is_of_as_many_as_there_are() -> None:
    logits = np.array([3, 0, -3, 9, 3], np.float32)
    assert mean(TIMES, logits).tolist() == [1.5, 0, 2, 3, 6]

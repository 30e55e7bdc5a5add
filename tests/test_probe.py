"""The probe: what a carrier must tell of its frame."""

import math

import numpy as np
import torch

from model.probe import PARTS, SUBJECTS, WALKING, Probe, told
from simulator.visits import MOVERS, WIDTH
from simulator.world import Sighting


def sighting(kind: str, colour: str, *, x: float = 320, heading: int = 1, visible: float = 1.0, name: str = "a") -> Sighting:
    return Sighting(id=name, kind=kind, colour=colour, heading=heading, x=x, y=300, scale=1, moving=True, visible=visible)


def parts(*sightings: Sighting) -> list[np.ndarray]:
    return np.split(told(sightings), np.cumsum(PARTS)[:-1])


def test_what_is_there_is_told_with_its_place_and_heading() -> None:
    there, place, heading, count = parts(sighting("car", "red", x=160, heading=-1), sighting("bag", "", heading=0))
    car, bag = SUBJECTS.index(("car", "red")), SUBJECTS.index(("bag", ""))
    assert [SUBJECTS[i] for i in np.flatnonzero(there)] == [("car", "red"), ("bag", "")]
    assert (place[car], heading[car]) == (160 / WIDTH, 0)
    assert math.isnan(heading[bag])
    assert np.isnan(np.delete(place, [car, bag])).all()
    assert count.tolist() == [float(kind == "car") for kind in MOVERS]


def test_what_is_barely_visible_is_not_told() -> None:
    there, place, heading, count = parts(sighting("truck", "blue", visible=0.3))
    truck = SUBJECTS.index(("truck", "blue"))
    assert math.isnan(there[truck])
    assert math.isnan(place[truck])
    assert math.isnan(heading[truck])
    assert math.isnan(count[MOVERS.index("truck")])
    assert not np.delete(there, truck).any()


def test_two_alike_have_no_one_place_nor_a_heading_when_they_differ() -> None:
    there, place, heading, count = parts(
        sighting("person", "red", x=100, heading=1), sighting("person", "red", x=500, heading=-1, name="b"), sighting("person", "blue")
    )
    red = SUBJECTS.index(("person", "red"))
    assert there[red] == 1
    assert math.isnan(place[red])
    assert math.isnan(heading[red])
    assert count[MOVERS.index("person")] == 3


def test_walking_names_the_headings_of_people() -> None:
    whole = told([sighting("person", colour, name=colour) for colour in ("red", "black")])
    known = [i for i in range(2 * len(SUBJECTS), 3 * len(SUBJECTS)) if not math.isnan(whole[i])]
    assert known
    assert set(known) <= set(WALKING)
    assert not set(np.flatnonzero(~np.isnan(told([sighting("car", "red")])))) & set(WALKING)


def test_it_learns_to_read_carriers() -> None:
    torch.manual_seed(0)
    frames = [(sighting("car", "red", x=80, heading=1),), (sighting("truck", "blue", x=500, heading=-1),), ()]
    truth = torch.tensor(np.array([[told(frame) for frame in frames]]))  # one clip of three frames
    keys, values = torch.randn(2, 3, 1, 2, 3, 8)
    probe = Probe(layers=3, kv_heads=2, head_dim=8)
    optimiser = torch.optim.Adam(probe.parameters(), lr=0.001)
    before = Probe.loss(probe(keys, values), truth).item()
    for _ in range(1200):
        optimiser.zero_grad()
        loss = Probe.loss(probe(keys, values), truth)
        loss.backward()
        optimiser.step()
    assert loss.item() < before / 20
    found, away, heading, counts = Probe.right(probe(keys, values), truth)
    assert (found, heading, counts) == (1, 1, 1)
    assert away < 0.05

"""kill -9 of every process of a running system, one after the other, while four cameras are watched and people ask."""

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
from killing import HUNG_S, PATIENCE_S, PICTURE_S, TITLES, Asked, People, Watched, until, watched

MINUTES = float(os.environ.get("LONGWATCH_KILL_MINUTES", "0"))  # 0: every process once
pytestmark = [pytest.mark.ray, pytest.mark.gst, pytest.mark.redis, pytest.mark.timeout(900 + 120 * MINUTES)]

SEEN_AGAIN_S, ANSWERED_S, DRAINED_S = 10.0, 5.0, 10.0  # on a machine of one's own
LOADED_S = 15.0  # where all that decode are killed, two models are loaded beside each other
ARRIVED_S = 3.0  # by then a question is with the API
DECODE = {"min_replicas": 2, "max_replicas": 2}
RULE = {"id": "anybody", "condition": "a person is there", "threshold": 0.05, "cooldown_s": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site(Watched):
    """With two that decode, and a rule."""

    def heal_s(self, name: str, people: People) -> float:
        """Kill a process, or all that decode; seconds of our own until what it does is done again."""
        victims = self.running.kill(name)
        at_s = time.time()
        healed = {
            "ingest": lambda: self.ledger.newest_s() > at_s,
            "prefill": lambda: self.ledger.newest_s() > at_s,
            "rules": lambda: self.running.replaced(name, victims) and _up(self.url, "rules"),
            "controller": lambda: self.running.replaced(name, victims) and people.answered_since(at_s),
        }
        return self._until(healed.get(name, lambda: people.answered_since(at_s)), at_s)

    def heal_of_one_s(self, people: People) -> float:
        """Kill one of two that decode; seconds of our own until a question that was asked since is answered."""
        self.running.kill("decode", 1)
        at_s = time.time()
        return self._until(lambda: people.answered_since(at_s), at_s)

    def _until(self, healed: Callable[[], bool], since_s: float) -> float:
        return self.own.between(since_s, time.time()) if until(healed, PATIENCE_S) < PATIENCE_S else float("inf")

    def await_whole(self) -> None:
        """Until both decode again: whoever loads a model while another is still loading would be told as slow."""
        assert until(lambda: _metrics(self.url).count('process_resident_memory_bytes{plane="decode"') == 2, PATIENCE_S) < PATIENCE_S


def _up(url: str, plane: str) -> bool:
    return f'longwatch_up{{plane="{plane}"}} 1.0' in _metrics(url)


def _metrics(url: str) -> str:
    try:
        return httpx.get(f"{url}/metrics", timeout=10).text
    except httpx.TransportError:
        return ""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with watched(Site, tmp_path, rules=[RULE], decode=DECODE) as site:
        yield site


def test_whatever_is_killed_is_back_soon_and_nothing_is_lost(site: Site) -> None:
    seed = int(os.environ.get("LONGWATCH_KILL_SEED", time.time()))
    print(f"LONGWATCH_KILL_SEED={seed}")
    r = random.Random(seed)
    healed: defaultdict[str, list[float]] = defaultdict(list)
    proxy_gone: list[tuple[float, float]] = []  # when nobody listened
    end_s = time.monotonic() + 60 * MINUTES
    with People(site.url, 2, pause_s=0.5) as people:
        while not healed or time.monotonic() < end_s:
            for name in r.sample(sorted(TITLES), len(TITLES)):
                site.await_whole()
                time.sleep(r.uniform(0, 3))  # at any moment of whatever it is doing
                at_s = time.time()
                healed[name].append(site.heal_s(name, people))
                print(f"{name}: {healed[name][-1]:.1f} s of our own in {time.time() - at_s:.1f} s", flush=True)
                site.ledger.look()
                if name == "proxy":
                    proxy_gone.append((at_s, time.time()))
            site.await_whole()
            healed["one of 2 decode"].append(site.heal_of_one_s(people))
    _print(healed, people.asked)
    times_s = {camera: np.array(times) / 1000 for camera, times in site.ledger.look().items()}
    holes_s = {camera: max(site.own.between(*pair) for pair in pairwise(times)) for camera, times in times_s.items()}
    assert site.ledger.whole()
    assert all(max(asked.took_s for asked in people.asked) < HUNG_S for asked in people.asked)
    assert not [asked for asked in people.asked if not asked.said or (asked.status is None and not _within(asked, proxy_gone))]
    assert min(np.diff(times).min() for times in times_s.values()) > 0.9 * PICTURE_S, "the same picture twice"
    assert max(holes_s.values()) < SEEN_AGAIN_S, holes_s
    assert max(healed["decode"]) < LOADED_S, healed
    assert max(max(times_s) for name, times_s in healed.items() if name != "decode") < SEEN_AGAIN_S, healed
    assert max(healed["one of 2 decode"]) < ANSWERED_S, healed


def _within(asked: Asked, spans: list[tuple[float, float]]) -> bool:
    """Whether it was under way at some moment of a span."""
    return any(asked.at_s <= end_s and begin_s <= asked.end_s for begin_s, end_s in spans)


def _print(healed: dict[str, list[float]], asked: list[Asked]) -> None:
    for name, times_s in sorted(healed.items()):
        print(f"{name:15} killed {len(times_s):2} times, healed after {np.median(times_s):.1f} s (worst {max(times_s):.1f} s)")
    print(f"{len(asked)} questions, the longest {max(each.took_s for each in asked):.1f} s: {_counted(asked)}")


def _counted(asked: list[Asked]) -> dict[str, int]:
    return dict(Counter("answered" if each.answered else f"{each.status}: {each.said}" for each in asked))


def test_sigterm_under_load_answers_what_was_asked_writes_what_was_seen_and_leaves_nothing(site: Site) -> None:
    folders = site.running.folders()
    with People(site.url, 12, pause_s=0) as people:
        until(lambda: len(people.asked) > 20, PATIENCE_S)
        with site.running.frozen("decode"):  # so that every question is under way
            assert until(lambda: people.all_wait(ARRIVED_S), PATIENCE_S) < PATIENCE_S
            at_s = time.time()
            site.running.terminate()
        assert until(lambda: site.running.ended is not None, PATIENCE_S) < PATIENCE_S
        took_s = site.own.between(at_s, time.time())
    assert site.running.ended == 0 and not site.running.processes()
    under_way = [asked for asked in people.asked if asked.at_s < at_s <= asked.end_s]
    behind_s = site.own.between(site.ledger.newest_s(), at_s)
    print(f"ended {took_s:.1f} s after SIGTERM, which found the memory {behind_s:.1f} s behind; {_counted(people.asked)}")
    assert len(under_way) == 12 and all(asked.answered for asked in under_way)
    assert all(asked.said for asked in people.asked)
    assert any(asked.status == 503 for asked in people.asked if asked.at_s > at_s), "new questions are refused by name first"
    assert behind_s < 2
    assert folders and not any(folder.exists() for folder in folders)
    assert took_s < DRAINED_S

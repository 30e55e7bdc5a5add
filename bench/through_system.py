"""Asks a running Longwatch about a simulated site that it watches over RTSP."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import httpx

from actors.app import Longwatch
from actors.demo import ask_and_mark, free_port, simulated_site, wait_until_seen
from model import embedded
from model.backbone import Backbone
from pipeline.config import Config
from simulator.questions import FAMILIES, Quiz, ask
from simulator.visits import CAMERAS
from simulator.watching import Watch, watch_at
from simulator.world import Site
from storage.store import CarrierStore

SEED = 920_000
WATCH_S = 150
WINDOWS_S = (24, 40, 60)


def draw(site: Site, seen: Mapping[str, Sequence[float]], count: int, r: Random) -> Iterator[tuple[Quiz, Watch, list[str]]]:
    """Questions over windows of what was `seen` (site times of each camera's pictures), of one camera or several, every family in turn."""
    start, end = max(each[0] for each in seen.values()), min(each[-1] for each in seen.values())
    asked = 0
    while asked < count:
        cameras = [r.choice(CAMERAS)] if r.random() < 0.5 else r.sample(CAMERAS, r.randint(2, 4))
        length = r.choice([s for s in WINDOWS_S if s * len(cameras) <= 120])
        first = r.uniform(start, end - length)
        w = watch_at(site, {c: [t for t in seen[c] if first <= t <= first + length] for c in cameras})
        if quiz := ask(w, r, FAMILIES[asked % len(FAMILIES)]):
            asked += 1
            yield quiz, w, cameras


def through_system(count: int, seed: int = SEED) -> list[list[object]]:
    """Rows by family: family, questions, share right; the last is all together."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    with simulated_site(seed) as served:
        config = Config.model_validate({"cameras": served["cameras"], "port": free_port(0)})
        with Longwatch(config) as longwatch, httpx.Client(base_url=longwatch.url, timeout=60) as client:
            wait_until_seen(client, WATCH_S)
            site, epoch = Site(seed, traffic=served["traffic"]), served["epoch"]
            store = CarrierStore(longwatch.redis_url, Backbone.load(embedded.FOLDER).spec.fingerprint)
            seen = {c: [at / 1000 - epoch for at in store.times(c, None)] for c in CAMERAS}
            for quiz, w, cameras in draw(site, seen, count, Random(seed)):
                right[quiz.family].append(ask_and_mark(client, quiz, w, cameras, epoch, margin_s=0.001)[1])
    rows: list[list[object]] = [[family, len(marks), sum(marks) / len(marks)] for family, marks in sorted(right.items())]
    return [*rows, ["all", count, _share(list(right.values()))]]


def _share(groups: Sequence[Sequence[bool]]) -> float:
    marks = [m for group in groups for m in group]
    return sum(marks) / len(marks)

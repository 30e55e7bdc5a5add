"""Two prefill actors that share four cameras: one freezes, then one is killed, and every camera is seen on."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from killing import PATIENCE_S, PICTURE_S, Watched, until, watched
from prometheus_client.parser import text_string_to_metric_families

from pipeline.sharing import GONE_S

pytestmark = [pytest.mark.ray, pytest.mark.gst, pytest.mark.redis, pytest.mark.timeout(900)]

TAKEN_OVER_S = GONE_S + 5.0  # on a machine of one's own
PLANES = {"prefill", "prefill-2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site(Watched):
    """With two prefill actors."""

    def written(self) -> dict[str, float]:
        """Carriers by the plane that wrote them; of those that answer."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {sample.labels["plane"]: sample.value for sample in samples if sample.name == "longwatch_carriers_written_total"}

    def await_both_at_work(self) -> None:
        before = {plane: self.written().get(plane, 0.0) for plane in PLANES}
        assert until(lambda: all(self.written().get(plane, 0) > before[plane] + 5 for plane in PLANES), PATIENCE_S) < PATIENCE_S

    def seen_again_s(self) -> float:
        """Seconds of our own until each camera has a carrier that is younger than this call."""
        at_s = time.time()
        assert until(lambda: self.ledger.newest_s() > at_s, PATIENCE_S) < PATIENCE_S
        return self.own.between(at_s, time.time())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with watched(Site, tmp_path, prefill={"actors": 2}) as site:
        yield site


def test_cameras_are_shared_and_go_to_the_other_when_one_freezes_or_dies(site: Site) -> None:
    site.await_both_at_work()
    with site.running.frozen("prefill", 1):
        frozen_s = site.seen_again_s()
        assert until(lambda: site.written().keys() == PLANES - {_silent(site)}, PATIENCE_S) < PATIENCE_S
    site.await_both_at_work()
    victims = site.running.kill("prefill", 1)
    killed_s = site.seen_again_s()
    assert until(lambda: site.running.replaced("prefill", victims), PATIENCE_S) < PATIENCE_S
    site.await_both_at_work()
    print(f"seen again {frozen_s:.1f} s of our own after one froze, {killed_s:.1f} s after one was killed")
    times = site.ledger.look()
    assert site.ledger.whole()
    assert min(np.diff(each).min() for each in times.values()) > 900 * PICTURE_S, "the same picture twice"
    assert max(frozen_s, killed_s) < TAKEN_OVER_S


def _silent(site: Site) -> str:
    """The one plane of the two that does not answer."""
    text = httpx.get(f"{site.url}/metrics", timeout=30).text
    return next((plane for plane in sorted(PLANES) if f'longwatch_up{{plane="{plane}"}} 0.0' in text), "")

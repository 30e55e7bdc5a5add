"""One scrape of all planes: each is asked, and one that does not answer in time is said to be down."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from pipeline.core import LongwatchError

log = logging.getLogger(__name__)

PATIENCE_S = 5.0

Source = Callable[[], Awaitable[Iterable[Metric]]]


class PlaneDown(LongwatchError):
    """A plane that does not tell."""


async def scrape(planes: Mapping[str, Source], patience_s: float = PATIENCE_S) -> bytes:
    """What all planes tell, in Prometheus' text format 0.0.4, and `longwatch_up` of each.

    A plane is down when it raises a LongwatchError, or is silent for `patience_s`; the others are told all the same.
    """
    told = await asyncio.gather(*(_ask(plane, source, patience_s) for plane, source in planes.items()))
    up = GaugeMetricFamily("longwatch_up", "1 if the plane answers", labels=["plane"])
    for plane, families in zip(planes, told, strict=True):
        up.add_metric([plane], families is not None)
    return generate_latest(_Merged([up, *(family for families in told for family in families or ())]))


async def _ask(plane: str, source: Source, patience_s: float) -> Iterable[Metric] | None:
    try:
        return await asyncio.wait_for(source(), patience_s)
    except TimeoutError:
        log.warning("the %s plane did not tell its metrics within %s s", plane, patience_s)
    except LongwatchError as error:
        log.warning("the %s plane does not tell its metrics: %s", plane, error)
    return None


@dataclass(frozen=True, slots=True)
class _Merged:
    """Families of several processes, each name once, as the format demands."""

    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for family in self.families:
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into.samples.extend(family.samples)
        return merged.values()

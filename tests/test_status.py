"""`longwatch status` against a real API, with cameras and planes that are well, lost and dead."""

import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from click.testing import Result
from prometheus_client.core import Metric
from typer.testing import CliRunner
from web_fakes import T0, FakeAsk, FakeRegistry, FakeStore, serving

from actors.asking import Asking
from actors.cli import app
from actors.metrics import Metrics, cameras
from actors.scrape import PlaneDown, scrape
from actors.status import quantile, reports
from pipeline.core import CameraPhase, CameraStatus
from web.api import create_app


class Live(FakeRegistry):
    """Both cameras are well."""

    def statuses(self) -> dict[str, CameraStatus]:
        return {camera: CameraStatus(camera_id=camera, phase=CameraPhase.LIVE, frames=7) for camera in self.cams}


@dataclass
class Site:
    """A served app whose planes tell what the test makes up."""

    registry: FakeRegistry = field(default_factory=Live)
    store: FakeStore = field(default_factory=lambda: FakeStore({("gate", T0): b""}))
    prefill_is_dead: bool = False
    frames: int = 0

    @contextmanager
    def served(self) -> Iterator[str]:
        metrics = Metrics("ingest")
        self.asking = Asking(metrics.registry)
        metrics.reads(cameras(lambda: [CameraStatus(camera_id="gate", phase=CameraPhase.LIVE, frames=self.frames)]))

        async def ingest() -> Iterable[Metric]:
            return metrics.told()

        async def prefill() -> Iterable[Metric]:
            if self.prefill_is_dead:
                raise PlaneDown("killed")
            return ()

        async def tell() -> bytes:
            return await scrape({"ingest": ingest, "prefill": prefill})

        with serving(create_app(self.registry, self.store, FakeAsk(), scrape=tell, token="t0ken")) as url:
            yield url


def status(url: str, *more: str) -> Result:
    arguments = ["status", "--once", "--every", "0.1", "--url", url, "--token", "t0ken", *more]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def told(url: str) -> tuple[int, dict[str, Any]]:
    said = status(url, "--json")
    return said.exit_code, json.loads(said.output)


def test_all_well_is_told_and_exits_0() -> None:
    with Site().served() as url:
        code, report = told(url)
        table = status(url)
    assert code == 0 and table.exit_code == 0 and report["well"] is True
    assert report["planes"] == {"ingest": True, "prefill": True} and report["megabytes"]["ingest"] > 1
    gate, yard = report["cameras"]
    assert gate["id"] == "gate" and gate["phase"] == "live"
    assert abs(gate["lag_s"] - (time.time() - T0 / 1000)) < 60
    assert yard["lag_s"] is None
    assert "gate" in table.output and "down" not in table.output


def test_a_dead_plane_is_told_and_exits_1() -> None:
    with Site(prefill_is_dead=True).served() as url:
        code, report = told(url)
        table = status(url)
    assert code == 1 and table.exit_code == 1 and report["planes"] == {"ingest": True, "prefill": False}
    assert any("prefill" in line and "down" in line for line in table.output.splitlines())


def test_a_lost_camera_is_told_with_its_error_and_exits_1() -> None:
    with Site(registry=FakeRegistry()).served() as url:
        code, report = told(url)
        table = status(url)
    yard = report["cameras"][1]
    assert code == 1 and (yard["phase"], yard["dropped"], yard["reconnects"]) == ("lost", 2, 3)
    assert "secret" not in table.output and "timed out" in table.output


def test_without_the_memory_the_planes_are_told_all_the_same() -> None:
    with Site(store=FakeStore(down=True)).served() as url:
        code, report = told(url)
    assert code == 1 and report["cameras"] == [] and "cannot reach" in report["trouble"]
    assert report["planes"] == {"ingest": True, "prefill": True}


def test_rates_and_times_are_those_between_the_looks() -> None:
    site = Site(frames=100)
    with site.served() as url, httpx.Client(base_url=url, headers={"Authorization": "Bearer t0ken"}) as client:
        with site.asking.one():
            time.sleep(0.06)  # asked before the first look: in no figure
        run = reports(client.get, 0.2)
        # The first look is taken when the first report is asked for; what is asked between the two reports is in the second.
        first = next(run)
        assert first.questions_a_minute == 0 and first.p50_s is None and first.cameras[0].fps == 0
        site.frames += 10
        for _ in range(3):
            with site.asking.one():
                pass
        second = next(run)
    assert second.over_s >= 0.4
    assert second.cameras[0].fps == pytest.approx(10 / second.over_s)
    assert second.questions_a_minute == pytest.approx(3 / second.over_s * 60)
    assert second.p50_s is not None and second.p50_s <= 0.005


def test_nobody_there_and_a_wrong_token_are_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = status(nobody)
    assert said.exit_code == 1 and "does not answer" in str(said.exception)
    with Site().served() as url:
        said = CliRunner().invoke(app, ["status", "--once", "--url", url])
    assert said.exit_code == 1 and "access token" in str(said.exception)


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ([], 0.5, None),
        ([(1.0, 0.0), (INFINITE, 0.0)], 0.5, None),
        ([(1.0, 10.0), (2.0, 20.0), (INFINITE, 20.0)], 0.5, 1.0),
        ([(1.0, 10.0), (2.0, 20.0), (INFINITE, 20.0)], 0.95, 1.9),
        ([(1.0, 0.0), (2.0, 4.0), (INFINITE, 4.0)], 0.5, 1.5),
        ([(1.0, 1.0), (2.0, 1.0), (INFINITE, 10.0)], 0.95, 2.0),
    ],
)
def test_quantiles_are_estimated_as_prometheus_does(buckets: list[tuple[float, float]], share: float, value: float | None) -> None:
    assert quantile(buckets, share) == (None if value is None else pytest.approx(value))

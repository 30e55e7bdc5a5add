"""What the planes tell of themselves: gathered with planes dead, bounded, and as docs/metrics.md lists it."""

import asyncio
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from carriers import FINGERPRINT, eventually, key, write
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from web_fakes import FakeAsk, FakeRegistry, FakeStore, call

from actors.asking import OUTCOMES, Asking
from actors.metrics import Alerting, Decoding, Metrics, Prefilling, cameras, loops, memory, prefill, rules
from actors.scrape import PlaneDown, Source, scrape
from pipeline.core import Camera, CameraPhase, CameraStatus, Frame, StoreUnavailable
from pipeline.ingest import Ingest
from pipeline.loop import Loop
from pipeline.prefiller import Prefiller
from pipeline.rules import RuleEngine
from pipeline.writer import Writer
from storage.store import CarrierStore
from web.api import create_app

DOCUMENT = Path(__file__).parent.parent / "docs/metrics.md"

Values = dict[tuple[Any, ...], float]


def values(text: bytes | str) -> Values:
    """Each series, as (name, label values in order of their names), by Prometheus' own parser."""
    text = text if isinstance(text, str) else text.decode()
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)), "a family is told in two places"
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(s.name, *(s.labels[name] for name in sorted(s.labels))): s.value for s in samples}
    assert len(found) == len(samples), "a series is told twice"
    return found


def telling(metrics: Metrics) -> Source:
    async def source() -> Iterable[Metric]:
        return metrics.told()

    return source


def scraped(*told: Metrics) -> Values:
    return values(asyncio.run(scrape({str(i): telling(metrics) for i, metrics in enumerate(told)})))


async def silent() -> Iterable[Metric]:
    await asyncio.Event().wait()
    return ()


async def dead() -> Iterable[Metric]:
    raise PlaneDown("killed")


async def away() -> Iterable[Metric]:
    raise StoreUnavailable("away")


def test_a_plane_that_is_dead_or_silent_is_said_to_be_down_and_the_others_are_told_soon() -> None:
    planes = {"ingest": telling(Metrics("ingest")), "prefill": silent, "rules": dead, "store": away, "api": telling(Metrics("api"))}
    began = time.monotonic()
    found = values(asyncio.run(scrape(planes, patience_s=0.3)))
    assert 0.3 <= time.monotonic() - began < 30
    assert {plane: found["longwatch_up", plane] for plane in planes} == {"ingest": 1, "prefill": 0, "rules": 0, "store": 0, "api": 1}
    assert found["process_resident_memory_bytes", "ingest"] > 1e6 and found["process_resident_memory_bytes", "api"] > 1e6
    assert ("process_resident_memory_bytes", "prefill") not in found


def test_a_defect_in_a_plane_is_not_taken_for_its_death() -> None:
    async def broken() -> Iterable[Metric]:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        asyncio.run(scrape({"api": broken}))


def test_two_replicas_of_a_plane_are_told_apart() -> None:
    replicas = [Metrics("decode", replica=name) for name in ("a", "b")]
    Decoding(replicas[1].registry, len).judged(3, 0.6)
    found = scraped(*replicas)
    assert found["longwatch_judge_seconds_count", "decode", "b"] == 3
    assert found["process_resident_memory_bytes", "decode", "a"] > 0
    assert not [name for name, *_ in found if str(name).endswith("_created")]


class Still:
    """A camera that gives one picture."""

    def __init__(self, camera: Camera) -> None:
        self._camera, self._closed = camera, threading.Event()

    def frames(self) -> Iterator[Frame]:
        yield Frame(camera_id=self._camera.id, pts_ns=1, captured_ms=1_000, image=np.zeros((2, 2, 3), np.uint8))
        self._closed.wait(120)

    def close(self) -> None:
        self._closed.set()


def test_a_thousand_cameras_added_and_removed_leave_no_series() -> None:
    ingest, metrics = Ingest(source=Still), Metrics("ingest")
    metrics.reads(cameras(ingest.statuses))
    empty = set(scraped(metrics))
    for start in range(0, 1000, 250):
        ingest.reconcile([Camera(id=f"camera-{number}", uri="rtsp://x") for number in range(start, start + 250)])
        eventually(lambda: len(ingest.take(250, 0.1)) == 0 and all(status.frames for status in ingest.statuses()))
        told = scraped(metrics)
        assert told["longwatch_camera_frames_total", f"camera-{start}", "ingest"] == 1
        assert told["longwatch_camera_last_frame_timestamp_seconds", f"camera-{start}", "ingest"] == 1.0
        assert told["longwatch_camera_phase", f"camera-{start}", "live", "ingest"] == 1
        assert told["longwatch_camera_phase", f"camera-{start}", "lost", "ingest"] == 0
        assert len(told) - len(empty) == 250 * 9  # five numbers and four phases a camera
    ingest.close()
    assert set(scraped(metrics)) == empty


@pytest.mark.parametrize("error", [None, *OUTCOMES, KeyError])
def test_a_question_is_counted_by_how_it_ends_and_only_answers_are_timed(error: type[BaseException] | None) -> None:
    metrics = Metrics("api")
    asking = Asking(metrics.registry)
    before = scraped(metrics)
    try:
        with asking.one():
            if error:
                raise error
    except BaseException as raised:  # noqa: BLE001 - a cancellation is one
        assert type(raised) is error
    outcome = "answered" if error is None else OUTCOMES.get(error, "failed")
    counted = {name[1]: value - before[name] for name, value in scraped(metrics).items() if name[0] == "longwatch_questions_total"}
    assert {name for name, count in counted.items() if count} == {outcome} and counted[outcome] == 1
    assert len(counted) == 8
    assert scraped(metrics)["longwatch_question_seconds_count", "api"] == (error is None)


@pytest.mark.redis
def test_what_the_memory_took_missed_and_had_at_hand_is_told(redis_url: str, raw: Any) -> None:
    store, metrics = CarrierStore(redis_url, FINGERPRINT, cache_bytes=10_000_000), Metrics("prefill")
    work = Prefilling(metrics.registry)

    def put(writes: Any) -> None:
        store.put(writes)
        work.wrote(writes, now_ms=3_000)

    writer = Writer(put)
    prefiller = Prefiller(None, store.live, writer.write)  # type: ignore[arg-type]  # nothing is prefilled
    prefiller.stale = 4
    metrics.reads(prefill(prefiller, writer), memory(store))
    writer.write(write(1_000, claim=store.claim("dock")))
    writer.close()
    writer.write(write(2_000))  # closed: lost
    work.prefilled(3, 0.03)
    store.get([key(1_000)])
    store.get([key(1_000), key(7)])
    found = scraped(metrics)
    store.close()
    expected = {
        ("longwatch_carriers_written_total",): 1,
        ("longwatch_carriers_lost_total",): 1,
        ("longwatch_carrier_lag_seconds_sum",): 2.0,
        ("longwatch_writes_waiting",): 0,
        ("longwatch_prefill_batch_frames_sum",): 3,
        ("longwatch_prefill_seconds_count",): 1,
        ("longwatch_prefill_frames_dropped_total", "stale"): 4,
        ("longwatch_store_misses_total", "missing"): 1,
        ("longwatch_cache_reads_total", "hit"): 1,
        ("longwatch_cache_reads_total", "miss"): 2,
    }
    assert {name: found[name[0], "prefill", *name[1:]] for name in expected} == expected


def test_writes_that_wait_are_counted() -> None:
    started, leave = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        started.set()
        leave.wait(30)

    writer = Writer(slow, batch=1)
    for at_ms in (1, 2, 3):
        writer.write(write(at_ms))
    assert started.wait(30)
    assert writer.waiting == 2
    leave.set()
    writer.close()
    assert writer.waiting == 0


def test_a_loop_that_fails_again_and_again_is_told() -> None:
    failing = Loop(lambda: 1 / 0, name="failing").start()
    metrics = Metrics("rules")
    metrics.reads(loops(rules=failing))
    eventually(lambda: scraped(metrics)["longwatch_loop_failures", "rules", "rules"] >= 2)
    failing.close()


def test_http_tells_what_the_planes_told_and_asks_for_the_token() -> None:
    metrics = Metrics("api")

    async def tell() -> bytes:
        return await scrape({"api": telling(metrics), "prefill": dead})

    app = create_app(FakeRegistry(), FakeStore(), FakeAsk(), scrape=tell, token="t0ken")
    refused = call(app, "GET", "/metrics")
    assert refused.status_code == 401 and b"longwatch_up" not in refused.content
    assert call(app, "GET", "/metrics", headers={"Authorization": "Bearer t0ken", "Sec-Fetch-Site": "cross-site"}).status_code == 403
    reply = call(app, "GET", "/metrics", headers={"Authorization": "Bearer t0ken"})
    assert reply.status_code == 200 and reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {name[1]: up for name, up in values(reply.text).items() if name[0] == "longwatch_up"} == {"api": 1, "prefill": 0}
    assert call(create_app(FakeRegistry(), FakeStore(), FakeAsk()), "GET", "/metrics").status_code == 404


def everything(redis_url: str) -> list[Metrics]:
    """Every plane's metrics, with something to tell."""
    store = CarrierStore(redis_url, FINGERPRINT, cache_bytes=1)
    store.misses["missing"] += 1
    planes = {name: Metrics(name) for name in ("api", "ingest", "prefill", "decode", "rules")}
    Asking(planes["api"].registry)
    Prefilling(planes["prefill"].registry)
    Decoding(planes["decode"].registry, len)
    Alerting(planes["rules"].registry)
    writer = Writer(store.put)
    status = CameraStatus(camera_id="gate", phase=CameraPhase.LIVE, last_frame_ms=1)
    planes["ingest"].reads(cameras(lambda: [status]), loops(ingest=Loop(lambda: None, name="never")))
    planes["prefill"].reads(prefill(Prefiller(None, store.live, writer.write), writer), memory(store))  # type: ignore[arg-type]
    planes["rules"].reads(rules(RuleEngine(None, store, FakeRegistry())))  # type: ignore[arg-type]
    writer.close()
    return list(planes.values())


@pytest.mark.redis
def test_the_document_lists_every_metric_with_its_labels_and_no_other(redis_url: str) -> None:
    told = {"longwatch_up": {"plane"}}
    for metrics in everything(redis_url):
        for family in metrics.told():
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            told.setdefault(name, set()).update(labels)
    ours = {name: labels for name, labels in told.items() if name.startswith("longwatch_")}
    rows = re.findall(r"^\| `(longwatch_\w+)` \|(.*?)\|", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: {"plane", *re.findall(r"`(\w+)`", labels)} for name, labels in rows} == ours


def test_the_metrics_that_the_examples_use_are_listed() -> None:
    listed = set(re.findall(r"^\| `(longwatch_\w+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    used = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\blongwatch_\w+", DOCUMENT.read_text())}
    assert used == listed

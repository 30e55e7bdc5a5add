"""Traces, sent to a real collector: one a frame through ingest and prefill, one a question; and nothing at all when nobody asks."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial

import numpy as np
import pytest
from carriers import FINGERPRINT, carrier, eventually
from collector import Collector, collecting
from prometheus_client import CollectorRegistry
from web_fakes import FakeAsk

from actors import ingest, prefill
from actors.asking import Asking, watched
from actors.parts import Settings
from actors.tracing import ENDPOINTS, Off, Trace, Tracer, TracingMissing, tracer
from model.memory import LiveMemory
from pipeline.core import Answer, Camera, Carrier, CarrierKey, Frame, NoMemory, Question
from pipeline.ingest import Ingest
from storage.registry import Registry

otlp = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter", reason="needs longwatch[tracing]")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collected:
        for name, value in collected.environment.items():
            monkeypatch.setenv(name, value)
        yield collected


class Still:
    """A camera that gives one picture."""

    def __init__(self, camera: Camera) -> None:
        self._camera, self._closed = camera, threading.Event()

    def frames(self) -> Iterator[Frame]:
        yield Frame(camera_id=self._camera.id, pts_ns=1, captured_ms=1_700_000_000_000, image=np.zeros((2, 2, 3), np.uint8))
        self._closed.wait(30)

    def close(self) -> None:
        self._closed.set()


class Model:
    """Sees nothing, and makes a carrier of it."""

    fingerprint = FINGERPRINT
    head = None

    def memory(self, carriers: Sequence[Carrier]) -> LiveMemory:
        return LiveMemory(3, carriers)

    def prefill(self, frames: Sequence[Frame], memories: object) -> list[Carrier]:
        return [carrier(frame.captured_ms, frame.camera_id) for frame in frames]


@pytest.mark.redis
def test_a_frame_leaves_one_trace_through_both_planes(collector: Collector, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill, "load_model", lambda _: Model())
    monkeypatch.setattr(ingest, "Ingest", partial(Ingest, source=Still))
    Registry(redis_url).add_camera(Camera(id="gate", uri="rtsp://x"))
    trace = Trace.of(CarrierKey(camera_id="gate", at_ms=1_700_000_000_000))
    cameras = ingest.IngestActor(redis_url)
    prefiller = prefill.PrefillActor(Settings(redis_url=redis_url, registry_url=redis_url, model="none"), cameras.share)
    try:
        eventually(lambda: len(collector.of(trace)) == 4, within_s=60)
        told = {sample.name: sample.value for family in prefiller.metrics() for sample in family.samples}
    finally:
        prefiller.close()
        cameras.close()
    spans = collector.of(trace)
    assert {name: service for name, (service, _) in spans.items()} == {
        "ingest": "longwatch-ingest",
        "prefill": "longwatch-prefill",
        "write": "longwatch-prefill",
        "frame": "longwatch-prefill",
    }
    root = spans.pop("frame")[1]
    assert root.parent_span_id == b"" and int.from_bytes(root.span_id, "big") == trace.root
    assert {a.key: a.value.string_value for a in root.attributes} == {"camera": "gate"}
    assert all(span.parent_span_id == root.span_id and span.span_id != root.span_id for _, span in spans.values())
    assert root.start_time_unix_nano == spans["ingest"][1].start_time_unix_nano == 1_700_000_000_000_000_000
    assert spans["ingest"][1].end_time_unix_nano <= spans["prefill"][1].start_time_unix_nano
    assert spans["prefill"][1].end_time_unix_nano <= spans["write"][1].start_time_unix_nano
    assert spans["write"][1].end_time_unix_nano == root.end_time_unix_nano
    assert told["longwatch_carriers_written_total"] == told["longwatch_prefill_batch_frames_sum"] == 1


def test_a_question_leaves_one_trace_however_it_ends(collector: Collector) -> None:
    api, decode = tracer("api"), tracer("decode")
    asking = Asking(CollectorRegistry())
    traces: list[Trace] = []

    async def ask(question: Question, trace: Trace) -> AsyncGenerator[str | Answer, None]:
        traces.append(trace)
        decode.span(trace, "answer", 1, 2, carriers=3)
        async for said in FakeAsk()(question):
            yield said

    async def listen(question: str) -> None:
        async for _ in watched(ask, asking, api, Question(text=question)):
            pass

    asyncio.run(listen("What?"))
    with pytest.raises(NoMemory):
        asyncio.run(listen("An elephant?"))
    eventually(lambda: len(collector.spans) == 4, within_s=60)
    for trace in traces:
        spans = collector.of(trace)
        assert {name: service for name, (service, _) in spans.items()} == {"question": "longwatch-api", "answer": "longwatch-decode"}
        assert spans["answer"][1].parent_span_id == spans["question"][1].span_id


@pytest.mark.parametrize("sampler", ["traceidratio", "parentbased_traceidratio"])
def test_a_sampled_frame_is_sampled_in_every_process(collector: Collector, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    planes: list[Tracer] = [tracer("ingest"), tracer("prefill")]
    traces = [Trace.of(CarrierKey(camera_id="gate", at_ms=at_ms)) for at_ms in range(200)]
    for trace in traces:
        planes[0].span(trace, "ingest", 1, 2)
        planes[1].span(trace, "frame", 1, 2, root=True)
    for plane in planes:
        plane.close()  # type: ignore[attr-defined]  # sends what waits
    counts = [len(collector.of(trace)) for trace in traces]
    assert set(counts) == {0, 2} and 60 < counts.count(2) < 140


def test_without_a_collector_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert isinstance(tracer("api"), Off)
    program = "import sys; from actors.tracing import tracer; tracer('api'); print([m for m in sys.modules if 'opentelemetry' in m])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_collector_without_the_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "actors.otlp", None)
    with pytest.raises(TracingMissing, match=r"pip install 'longwatch\[tracing\]'"):
        tracer("api")

"""What each process tells of its work, as Prometheus metrics; docs/metrics.md lists them.

Numbers that the planes keep already are read when they are asked for, so what is removed leaves no series behind.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.core import Answer, CameraPhase, CameraStatus, CarrierWrite

if TYPE_CHECKING:  # each process loads its own plane only
    from pipeline.loop import Loop
    from pipeline.prefiller import Prefiller
    from pipeline.rules import RuleEngine
    from pipeline.writer import Writer
    from storage.store import CarrierStore

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BUCKETS_BATCH = (1, 2, 4, 8, 16, 32)

Reading = Callable[[], Iterable[Metric]]


class Metrics:
    """What one process tells. `labels` go on everything it says, so that a scrape of several can tell them apart."""

    def __init__(self, plane: str, **labels: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"plane": plane, **labels}
        self._readings: tuple[Reading, ...] = ()
        ProcessCollector(registry=self.registry)

    def reads(self, *readings: Reading) -> None:
        """Ask these whenever this is asked."""
        self._readings += readings

    def told(self) -> list[Metric]:
        """Everything, now."""
        families = [*self.registry.collect(), *(family for reading in self._readings for family in reading())]
        for family in families:
            kept = (sample for sample in family.samples if not sample.name.endswith("_created"))  # a second series for each, unused
            family.samples = [sample._replace(labels=self._labels | sample.labels) for sample in kept]
        return families


class Prefilling:
    """Batches, and what becomes of their carriers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._batch = Histogram("longwatch_prefill_batch_frames", "Frames prefilled together", buckets=BUCKETS_BATCH, registry=registry)
        self._seconds = Histogram("longwatch_prefill_seconds", "From a batch to its carriers", buckets=BUCKETS_S, registry=registry)
        self._written = Counter("longwatch_carriers_written", "Carriers that the memory took", registry=registry)
        self._lag = Histogram("longwatch_carrier_lag_seconds", "From capture to the memory", buckets=BUCKETS_S, registry=registry)

    def prefilled(self, frames: int, seconds: float) -> None:
        """A batch was prefilled."""
        self._batch.observe(frames)
        self._seconds.observe(seconds)

    def wrote(self, writes: Sequence[CarrierWrite], now_ms: int) -> None:
        """The memory took these."""
        self._written.inc(len(writes))
        for write in writes:
            self._lag.observe((now_ms - write.carrier.key.at_ms) / 1000)


class Decoding:
    """Answers and judgements, within a decode process."""

    def __init__(self, registry: CollectorRegistry, tokens: Callable[[str], int]) -> None:
        self._count_tokens = tokens
        self._answers = Histogram("longwatch_answer_seconds", "Selecting, fetching and decoding", buckets=BUCKETS_S, registry=registry)
        self._tokens = Counter("longwatch_answer_tokens", "Tokens of the answers", registry=registry)
        self._first = Histogram("longwatch_first_token_seconds", "From a question to its first token", buckets=BUCKETS_S, registry=registry)
        self._shared = Histogram("longwatch_decode_batch_questions", "Answers that shared a pass", buckets=BUCKETS_BATCH, registry=registry)
        self._left = Counter("longwatch_answers_left", "Answers given up before their end", ["reason"], registry=registry)
        for reason in ("cancelled", "late"):
            self._left.labels(reason)  # told from the start: a rate needs a first value
        self._judgements = Histogram("longwatch_judge_seconds", "Judging one rule at one camera", buckets=BUCKETS_S, registry=registry)

    def answered(self, answer: Answer) -> None:
        """A question was answered."""
        self._answers.observe(answer.took_ms / 1000)
        self._first.observe(answer.first_ms / 1000)
        self._tokens.inc(self._count_tokens(answer.text))

    def shared(self, questions: int) -> None:
        """So many answers came a token further together."""
        self._shared.observe(questions)

    def left(self, reason: str) -> None:
        """An answer was given up."""
        self._left.labels(reason).inc()

    def judged(self, rules: int, seconds: float) -> None:
        """So many rules were judged together."""
        for _ in range(rules):
            self._judgements.observe(seconds / rules)


class Alerting:
    """What comes of the rules."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.alerts = Counter("longwatch_alerts", "Rules that came true", registry=registry)
        self.undelivered = Counter("longwatch_alerts_undelivered", "Alerts that their webhook did not take", registry=registry)


def cameras(statuses: Callable[[], Iterable[CameraStatus]]) -> Reading:
    """How every camera that is watched now does."""

    def read() -> Iterator[Metric]:
        known = list(statuses())
        yield _counts("camera_frames", "Frames handed on to prefill", "camera", {s.camera_id: s.frames for s in known})
        replaced = "Frames replaced by newer ones before prefill took them"
        yield _counts("camera_frames_dropped", replaced, "camera", {s.camera_id: s.dropped for s in known})
        still = "Pictures passed over, since nothing had changed"
        yield _counts("camera_frames_still", still, "camera", {s.camera_id: s.still for s in known})
        yield _counts("camera_reconnects", "Connections after the first", "camera", {s.camera_id: s.reconnects for s in known})
        newest = GaugeMetricFamily("longwatch_camera_last_frame_timestamp_seconds", "When the newest frame was captured", labels=["camera"])
        phases = GaugeMetricFamily("longwatch_camera_phase", "1 for the phase that the camera is in", labels=["camera", "phase"])
        for status in known:
            if status.last_frame_ms is not None:
                newest.add_metric([status.camera_id], status.last_frame_ms / 1000)
            for phase in CameraPhase:
                phases.add_metric([status.camera_id, phase], phase is status.phase)
        share = GaugeMetricFamily("longwatch_sampling_share", "Of their rates that cameras are sampled at, less while prefill is behind")
        share.add_metric([], min((status.share for status in known), default=1.0))
        yield from (newest, phases, share)

    return read


def prefill(prefiller: "Prefiller", writer: "Writer") -> Reading:
    """What prefill passed over, and what waits for the memory."""

    def read() -> Iterator[Metric]:
        passed = {"stale": prefiller.stale, "not_recalled": prefiller.skipped}
        yield _counts("prefill_frames_dropped", "Frames that prefill passed over", "reason", passed)
        yield GaugeMetricFamily("longwatch_writes_waiting", "Carriers that wait for the memory", value=writer.waiting)
        yield CounterMetricFamily("longwatch_carriers_lost", "Carriers that could not be kept", value=writer.lost)

    return read


def rules(engine: "RuleEngine") -> Reading:
    """How the rules fare."""

    def read() -> Iterator[Metric]:
        yield CounterMetricFamily("longwatch_rule_failures", "Judgements that failed", value=engine.failures.total())

    return read


def memory(store: "CarrierStore") -> Reading:
    """How reading from the memory fares."""

    def read() -> Iterator[Metric]:
        yield _counts("store_misses", "Values that could not be used", "reason", store.misses)
        if store.cache:
            hits = {"hit": store.cache.hits, "miss": store.cache.misses}
            yield _counts("cache_reads", "Carriers looked for in the cache", "result", hits)
            yield GaugeMetricFamily("longwatch_cache_bytes", "Carriers in the cache", value=store.cache.bytes)

    return read


def loops(**running: "Loop") -> Reading:
    """Whether what a plane does again and again succeeds."""

    def read() -> Iterator[Metric]:
        failing = GaugeMetricFamily("longwatch_loop_failures", "Failures in a row", labels=["loop"])
        for name, loop in running.items():
            failing.add_metric([name], loop.failures)
        yield failing

    return read


def _counts(name: str, meaning: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"longwatch_{name}", meaning, labels=[label])
    for value, count in list(counts.items()):
        family.add_metric([value], count)
    return family

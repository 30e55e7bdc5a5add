"""The decode plane as a Ray Serve deployment: questions and rules to answers, from the memory alone."""

import asyncio
import time

from prometheus_client.core import Metric
from ray import serve

from actors.metrics import Decoding, Metrics, memory
from actors.parts import Settings, load_model, open_store
from actors.tracing import Trace, tracer
from pipeline.answerer import Answerer
from pipeline.core import Answer, Question
from pipeline.rules import Judgement
from storage.registry import Registry


class Decode:
    """Answers one question at a time per replica, off the event loop; holds no state but the model."""

    def __init__(self, settings: Settings) -> None:
        model = load_model(settings)
        registry = Registry(settings.registry_url)
        store = open_store(settings, model.fingerprint, head=model.head, cache_bytes=settings.cache_bytes)
        self._fingerprint = model.fingerprint
        self._tracer = tracer("decode")
        self._answerer = Answerer(model, store, lambda: [c.id for c in registry.cameras()], budget=model.budget)
        self._metrics = Metrics("decode", replica=serve.get_replica_context().replica_id.unique_id)
        self._metrics.reads(memory(store))
        self._work = Decoding(self._metrics.registry, tokens=lambda text: len(model.backbone.tokenizer(text).input_ids))

    async def answer(self, question: Question, trace: Trace) -> Answer:
        """Answer an analyst's question."""
        began_ns = time.time_ns()
        answer = await asyncio.to_thread(self._answerer.answer, question)
        self._work.answered(answer)
        self._tracer.span(trace, "answer", began_ns, time.time_ns(), carriers=answer.carriers)
        return answer

    async def judge(self, condition: str, camera_id: str) -> Judgement:
        """Judge a rule's condition on a camera's newest carriers."""
        began = time.perf_counter()
        judgement = await asyncio.to_thread(self._answerer.judge, condition, camera_id)
        self._work.judged(time.perf_counter() - began)
        return judgement

    def metrics(self) -> list[Metric]:
        """What a scrape is told."""
        return self._metrics.told()

    def fingerprint(self) -> str:
        """Names the model."""
        return self._fingerprint

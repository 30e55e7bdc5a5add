"""The decode plane as a Ray Serve deployment: questions and rules to answers, from the memory alone."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from prometheus_client.core import Metric
from ray import serve

from actors.metrics import Decoding, Metrics, memory
from actors.parts import BEHIND, Settings, load_batch, load_model, open_store
from actors.tracing import Trace, tracer
from pipeline.answerer import Answerer
from pipeline.batching import SEATS, Batching
from pipeline.config import DecodeSection
from pipeline.core import Answer, Mode, Question
from pipeline.rules import Judgement, Standing
from storage.freed import keep_freed
from storage.registry import Registry

DEADLINE_S = 60.0  # of a question: here from where it stands in line for the batch, at the API from where it is asked

READING = 8  # questions that fetch what they look at while the batch is full, and rules
WAITING = 64  # questions that may wait for a replica; more are refused at once


def serve_options(config: DecodeSection, gpus: float) -> dict[str, Any]:
    """How Serve runs `Decode`: as many replicas as have their batches half full, within the configured bounds."""
    return {
        "name": "decode",
        "ray_actor_options": {"num_cpus": 0.1, "num_gpus": gpus},
        "max_ongoing_requests": SEATS + READING,
        "max_queued_requests": WAITING,
        "autoscaling_config": {**config.model_dump(), "target_ongoing_requests": SEATS / 2},
    }


class Decode:
    """Answers questions together, off the event loop; holds no state but the model and the questions at hand."""

    def __init__(self, settings: Settings) -> None:
        os.nice(BEHIND)
        keep_freed()  # a question's carriers, and the batch they become, take the room of the last one's
        model = load_model(settings)
        registry = Registry(settings.registry_url)
        store = open_store(settings, model.fingerprint, head=model.head, cache_bytes=settings.cache_bytes)
        self._model = model.fingerprint, model.mode
        self._tracer = tracer("decode")
        self._answerer = Answerer(model, store, lambda: [c.id for c in registry.cameras()], budget=model.budget, recent=model.recent)
        self._metrics = Metrics("decode", replica=serve.get_replica_context().replica_id.unique_id)
        self._metrics.reads(memory(store))
        self._work = Decoding(self._metrics.registry, tokens=lambda text: len(model.backbone.tokenizer(text).input_ids))
        batching = Batching(lambda: load_batch(model), turned=self._work.shared, left=self._work.left)
        self._speak = partial(batching.ask, within_s=DEADLINE_S)

    async def answer(self, question: Question, trace: Trace) -> AsyncGenerator[str | Answer, None]:
        """Answer an analyst's question: the words as they come, and at last the answer."""
        began_ns = time.time_ns()
        async with aclosing(self._answerer.stream(question, self._speak)) as saying:
            async for said in saying:
                if isinstance(said, Answer):
                    self._work.answered(said)
                    self._tracer.span(trace, "answer", began_ns, time.time_ns(), carriers=said.carriers)
                yield said

    async def judge(self, standing: Sequence[Standing]) -> list[Judgement | None]:
        """Judge rules' conditions on their cameras' newest carriers."""
        began = time.perf_counter()
        judged = await asyncio.to_thread(self._answerer.judge, standing)
        self._work.judged(len(judged), time.perf_counter() - began)
        return judged

    def metrics(self) -> list[Metric]:
        """What a scrape is told."""
        return self._metrics.told()

    def model(self) -> tuple[str, Mode]:
        """Its fingerprint, and its mode."""
        return self._model

"""The decode plane as a Ray Serve deployment: questions and rules to answers, from the memory alone."""

import asyncio

from actors.parts import Settings, load_model, open_store
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
        self._answerer = Answerer(model, store, lambda: [c.id for c in registry.cameras()], budget=model.budget)

    async def answer(self, question: Question) -> Answer:
        """Answer an analyst's question."""
        return await asyncio.to_thread(self._answerer.answer, question)

    async def judge(self, condition: str, camera_id: str) -> Judgement:
        """Judge a rule's condition on a camera's newest carriers."""
        return await asyncio.to_thread(self._answerer.judge, condition, camera_id)

    def fingerprint(self) -> str:
        """Names the model."""
        return self._fingerprint

"""Questions through Ray Serve and real HTTP: words as they come, askers who hang up, and questions too many. The model is a stand-in."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from http.client import HTTPConnection
from pathlib import Path
from select import select
from typing import Any

import httpx
import pytest
from carriers import FINGERPRINT, eventually
from prometheus_client.parser import text_string_to_metric_families
from ray import cloudpickle, serve
from ray.serve.config import HTTPOptions

from actors import api
from actors.cluster import RayCluster
from actors.decode import serve_options
from actors.demo import free_port
from actors.parts import Settings
from actors.tracing import Trace
from pipeline.config import DecodeSection
from pipeline.core import Answer, Question
from storage.redis_server import PrivateRedis

pytestmark = [pytest.mark.ray, pytest.mark.redis, pytest.mark.timeout(500)]

FOR_EVER = {"question": "What happens, for ever?"}
PLACES = {"max_ongoing_requests": 2, "max_queued_requests": 1}


class Talking:
    """Stands for Decode; to some questions it never stops talking."""

    def __init__(self) -> None:
        self._listeners = 0

    async def answer(self, question: Question, _: Trace) -> AsyncGenerator[str | Answer, None]:
        self._listeners += 1
        try:
            yield "A "
            while "for ever" in question.text:
                yield "very "
                await asyncio.sleep(0.02)
            said: dict[str, Any] = {"text": "A car", "probability": 1.0, "evidence": (), "gaps": (), "cameras": ("gate",), "carriers": 1}
            yield Answer(**said, mode="carriers", model="m", took_ms=2.0, first_ms=1.0)
        finally:
            self._listeners -= 1

    async def listeners(self) -> int:
        return self._listeners

    def metrics(self) -> list[Any]:
        return []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Any]]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folder: Path = tmp_path_factory.mktemp("redis")
    with PrivateRedis(folder) as redis, RayCluster(None):
        port = free_port(0)
        serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config={"log_level": "ERROR"})
        options = serve_options(DecodeSection(max_replicas=1), gpus=0) | PLACES
        handle = serve.run(serve.deployment(Talking, **options).bind(), name="decode", route_prefix=None)
        settings = Settings(redis_url=redis.url, registry_url=redis.url, model="none")
        serve.run(api.deployment(settings, FINGERPRINT, "carriers", None), name="api", route_prefix="/")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client, handle
        handle.shutdown()


def listeners(handle: Any) -> int:
    return max(handle.broadcast("listeners").results(timeout_s=30))


def questions(client: httpx.Client, outcome: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").raise_for_status().text)
    samples = {s.labels["outcome"]: s.value for f in families for s in f.samples if s.name == "longwatch_questions_total"}
    return samples[outcome]


def test_words_and_the_answer_come_through(served: tuple[httpx.Client, Any]) -> None:
    client, _ = served
    streamed = client.post("/v1/ask", json={"question": "What?", "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.startswith('event: words\ndata: {"text":"A "}\n\nevent: answer\ndata: {"answer":"A car"')
    assert client.post("/v1/ask", json={"question": "What?"}).json()["answer"] == "A car"
    assert questions(client, "answered") == 2


def asking(client: httpx.Client, stream: bool) -> HTTPConnection:
    """Who has asked, for ever, and reads nothing yet."""
    asker = HTTPConnection("127.0.0.1", client.base_url.port or 0, timeout=60)
    asker.request("POST", "/v1/ask", json.dumps(FOR_EVER | {"stream": stream}), {"Content-Type": "application/json"})
    return asker


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_talked_to_any_longer(served: tuple[httpx.Client, Any], stream: bool) -> None:
    client, handle = served
    before = questions(client, "cancelled")
    asker = asking(client, stream)
    if stream:
        assert asker.getresponse().readline() == b"event: words\n"
    eventually(lambda: listeners(handle) == 1)
    asker.close()
    eventually(lambda: listeners(handle) == 0)
    eventually(lambda: questions(client, "cancelled") == before + 1)


def test_a_question_too_many_is_told_when_to_come_back(served: tuple[httpx.Client, Any]) -> None:
    client, handle = served
    askers = [asking(client, stream=False) for _ in range(8)]
    answered, _, _ = select([asker.sock for asker in askers], [], [], 60)  # to the others it talks for ever
    replies = [asker.getresponse() for asker in askers if asker.sock in answered]
    assert replies and {reply.status for reply in replies} == {429}
    assert all(int(reply.headers["retry-after"]) > 0 for reply in replies)
    for asker in askers:
        asker.close()
    eventually(lambda: listeners(handle) == 0)

"""The analyst API as a Ray Serve deployment."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

import ray
from fastapi import FastAPI
from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from actors.asking import Asking, watched
from actors.metrics import Metrics, memory
from actors.parts import NAMESPACE, Settings, open_store
from actors.scrape import PATIENCE_S, PlaneDown, Source, scrape
from actors.tracing import Trace, tracer
from pipeline.core import Answer, LongwatchError, Question
from storage.registry import Registry
from storage.store import CarrierStore
from web.api import create_app
from web.guard import Busy, NotReady, TooLate

DEADLINE_S = 60.0  # of a question, waiting and answering; what is cancelled then is dropped by the replica too


def deployment(settings: Settings, fingerprint: str, token: str | None) -> Any:
    """The Serve application. Ingress takes a builder: an app made here would travel pickled, and frozen."""

    def app() -> FastAPI:
        decode = serve.get_deployment_handle("decode", app_name="decode")
        store = open_store(settings, fingerprint)
        metrics = Metrics("api")
        metrics.reads(memory(store))
        ask = partial(watched, partial(ask_decode, decode), Asking(metrics.registry), tracer("api"))
        tell = partial(scrape, _planes(decode, store, metrics))
        return create_app(Registry(settings.registry_url), store, ask, scrape=tell, token=token)

    options = {"num_cpus": 0.1}
    return serve.deployment(serve.ingress(app)(), name="api", ray_actor_options=options, max_ongoing_requests=100).bind()


async def ask_decode(decode: Any, question: Question, trace: Trace) -> Answer:
    """The answer of a replica that decodes; its own errors as it raised them. Raises NotReady when there is none, Busy and TooLate."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            answer: Answer = await decode.answer.remote(question, trace)
    except TimeoutError:
        raise TooLate(f"there was no answer within {DEADLINE_S:g} s") from None
    except BackPressureError as error:
        raise Busy("as many questions wait as are let in") from error
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, LongwatchError) else error) from None
    except (RayActorError, RayServeException) as error:
        raise NotReady(f"the decode plane does not answer now ({type(error).__name__})") from error
    return answer


def _planes(decode: Any, store: CarrierStore, own: Metrics) -> dict[str, Source]:
    """Whom a scrape asks, by name; the store has nothing to tell but that it is there."""

    async def api() -> Iterable[Metric]:
        return own.told()

    async def memory() -> Iterable[Metric]:
        await asyncio.to_thread(store.ping)
        return ()

    actors: dict[str, Source] = {name: partial(_actor, name) for name in ("ingest", "prefill", "rules")}
    return actors | {"decode": partial(_replicas, decode), "api": api, "store": memory}


async def _actor(name: str) -> Iterable[Metric]:
    """What a named actor tells. Looked up each time: another may have taken its place, on another machine."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
        families: Iterable[Metric] = await actor.metrics.remote()
    except (RayError, ValueError) as error:  # ValueError: nobody has that name
        raise PlaneDown(f"{name}: {type(error).__name__}") from error
    return families


async def _replicas(decode: Any) -> Iterable[Metric]:
    """What every replica that decodes tells."""
    try:
        told = await decode.broadcast("metrics").results_async(timeout_s=PATIENCE_S)
    except (RayError, RayServeException) as error:
        raise PlaneDown(f"decode: {type(error).__name__}") from error
    return [family for families in told for family in families]

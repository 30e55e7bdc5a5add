"""The analyst API as a Ray Serve deployment."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from functools import partial
from typing import Any

import ray
from fastapi import FastAPI
from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError

from actors.asking import Asking, watched
from actors.decode import DEADLINE_S
from actors.metrics import Metrics, memory
from actors.parts import BEHIND, NAMESPACE, Settings, open_store
from actors.scrape import PATIENCE_S, PlaneDown, Source, scrape
from actors.tracing import Trace, tracer
from pipeline.core import Answer, LongwatchError, Mode, Question, TooLate
from storage.registry import Registry
from storage.store import CarrierStore
from web.api import create_app
from web.guard import Busy, NotReady

HEALING = {  # of the deployments
    "health_check_period_s": 1.0,  # so long may a killed replica go unnoticed
    "graceful_shutdown_wait_loop_s": 0.1,
    "graceful_shutdown_timeout_s": 7.0,  # what is under way is finished, if it can be by then
}


def deployment(settings: Settings, fingerprint: str, mode: Mode | None, token: str | None) -> Any:
    """The Serve application. Ingress takes a builder: an app made here would travel pickled, and frozen."""

    def app() -> FastAPI:
        os.nice(BEHIND)
        decode = serve.get_deployment_handle("decode", app_name="decode")
        store = open_store(settings, fingerprint)
        metrics = Metrics("api")
        metrics.reads(memory(store))
        ask = partial(watched, partial(ask_decode, decode), Asking(metrics.registry), tracer("api"))
        tell = partial(scrape, _planes(settings, decode, store, metrics))
        return create_app(Registry(settings.registry_url), store, ask, mode=mode, scrape=tell, token=token)

    options = {"num_cpus": 0.1}
    return serve.deployment(serve.ingress(app)(), name="api", ray_actor_options=options, max_ongoing_requests=100, **HEALING).bind()


async def ask_decode(decode: Any, question: Question, trace: Trace) -> AsyncGenerator[str | Answer, None]:
    """What a replica that decodes says. Whoever closes this hangs up: the replica then gives the question up.

    Raises its errors as it raised them, NotReady when there is none, Busy and TooLate.
    """
    until_s = asyncio.get_running_loop().time() + DEADLINE_S
    saying = decode.options(stream=True).answer.remote(question, trace)
    try:
        while (said := await _next(saying, until_s)) is not None:
            yield said
    except TimeoutError:
        saying.cancel()
        raise TooLate(f"there was no answer within {DEADLINE_S:g} s") from None
    except (asyncio.CancelledError, GeneratorExit):
        saying.cancel()
        raise
    except RequestCancelledError:  # how Serve may tell the same
        saying.cancel()
        raise asyncio.CancelledError from None
    except BackPressureError as error:
        raise Busy("as many questions wait as are let in") from error
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, LongwatchError) else error) from None
    except (RayActorError, RayServeException) as error:
        raise NotReady(f"the decode plane does not answer now ({type(error).__name__})") from error


async def _next(saying: AsyncIterator[str | Answer], until_s: float) -> str | Answer | None:
    """None when all is said. Raises TimeoutError, in the event loop's time."""
    async with asyncio.timeout_at(until_s):
        return await anext(saying, None)


def _planes(settings: Settings, decode: Any, store: CarrierStore, own: Metrics) -> dict[str, Source]:
    """Whom a scrape asks, by name; the store has nothing to tell but that it is there."""

    async def api() -> Iterable[Metric]:
        return own.told()

    async def memory() -> Iterable[Metric]:
        await asyncio.to_thread(store.ping)
        return ()

    actors: dict[str, Source] = {name: partial(_actor, name) for name in ("ingest", *settings.prefill_planes, "rules")}
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

"""The analyst API as a Ray Serve deployment."""

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayTaskError

from actors.parts import Settings, open_store
from pipeline.core import Answer, LongwatchError, Question
from storage.registry import Registry
from web.api import create_app


def deployment(settings: Settings, fingerprint: str, token: str | None) -> Any:
    """The Serve application. Ingress takes a builder: an app made here would travel pickled, and frozen."""

    def app() -> FastAPI:
        decode = serve.get_deployment_handle("decode", app_name="decode")

        async def ask(question: Question) -> Answer:
            try:
                answer: Answer = await decode.answer.remote(question)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, LongwatchError) else error) from None
            return answer

        return create_app(Registry(settings.registry_url), open_store(settings, fingerprint), ask, token=token)

    options = {"num_cpus": 0.1}
    return serve.deployment(serve.ingress(app)(), name="api", ray_actor_options=options, max_ongoing_requests=100).bind()

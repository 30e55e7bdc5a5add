"""A plane as a named actor that is there for as long as it is wanted."""

import logging
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError

from pipeline.core import LongwatchError
from pipeline.loop import Loop

log = logging.getLogger(__name__)

READY_S = 300.0  # most of it torch being loaded, by several processes at once
CLOSE_S = 8.0
LOOK_S = 1.0
THREADS = 4  # of an actor: it is at its work, and is asked how it does


class CannotStart(LongwatchError):
    """Longwatch could not be brought up."""


def placed(role: str, number: int | None = None) -> dict[str, Any]:
    """An actor's options: on a machine that joined with the label longwatch/ROLE=true, where there is none on this one, else on any.

    With a `number`, on the machine of that number among those with the label, as long as it is there: so several are on several.
    """
    label, here = f"longwatch/{role}", {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    machines = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Labels"].get(label) == "true")
    own = [{"ray.io/node-id": machines[number % len(machines)]}] if number is not None and machines else []
    first, *others = [*own, {label: "true"}, here, {}]
    return {"label_selector": first, "fallback_strategy": [{"label_selector": each} for each in others]}


class Plane:
    """A named actor, on a machine of its role. Ray restarts it when its process or its machine dies; when it fails as it starts, which
    is for Ray the end of it, this starts another, until it is closed. Raises CannotStart when the first does not start.
    """

    def __init__(
        self,
        name: str,
        kind: type,
        *arguments: object,
        role: str | None = None,
        number: int | None = None,
        gpus: float = 0.0,
        threads: int = THREADS,
    ) -> None:
        self._name = name
        self._start = partial(_start, name, kind, *arguments, role=role or name, number=number, gpus=gpus, threads=threads)
        self._actor = self._start()  # Ray ends an actor when nobody holds it
        self._died = False  # at the last look
        self._loop = Loop(self._revive, name=f"plane {name}", every_s=LOOK_S).start()

    def close(self) -> None:
        """Let it finish what it is at, if it still can."""
        self._loop.close()
        try:
            ray.get(self._actor.close.remote(), timeout=CLOSE_S)
        except (RayActorError, GetTimeoutError) as error:
            log.warning("%s was closed without its consent: %s", self._name, error)

    def _revive(self) -> None:
        died_before, self._died = self._died, False
        try:
            ray.get(self._actor.ready.remote(), timeout=LOOK_S)
        except ActorDiedError as error:
            self._died = True
            if not died_before:  # a call that was under way in a killed process ends so too, and that one is being restarted
                return
            log.warning("the %s plane could not be restarted (%s); another is started", self._name, last_line(error))
            ray.kill(self._actor)
            self._actor = self._start()
        except (RayActorError, GetTimeoutError):
            pass  # it is being restarted, or busy


def _start(name: str, kind: type, *arguments: object, role: str, number: int | None, gpus: float, threads: int) -> Any:
    options: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 0, "max_concurrency": threads, "num_cpus": 0.1, "num_gpus": gpus}
    actor = ray.remote(kind).options(name=name, get_if_exists=True, **options, **placed(role, number)).remote(*arguments)
    try:
        ray.get(actor.ready.remote(), timeout=READY_S)
    except (RayError, TimeoutError) as error:
        ray.kill(actor)  # or its name would go on meaning the one that died
        raise CannotStart(f"the {name} plane did not start: {last_line(error)}") from error
    return actor


def last_line(error: BaseException) -> str:
    """What was raised in another process, without the way it came."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

"""The wiring: starts the planes on one machine, or one plane on a machine of a cluster, and ends what it started."""

import logging
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.config import HTTPOptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import api, tracing
from actors.decode import Decode
from actors.ingest import IngestActor
from actors.parts import NAMESPACE, Settings
from actors.prefill import PrefillActor
from actors.rules import RulesActor
from pipeline.config import Config
from pipeline.core import Frame, LongwatchError
from storage.redis_server import PrivateRedis
from storage.registry import Registry
from storage.seal import Seal

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 * 1024 * 1024
READY_S = 120
CLOSE_S = 8
WAITING = 64  # questions that may wait for the decode plane; more are refused at once


class CannotStart(LongwatchError):
    """Longwatch could not be brought up."""


class Longwatch:
    """A running system. Use as a context manager: everything it started ends with it."""

    def __init__(self, config: Config, *, roles: frozenset[str] = frozenset({"all"}), ray_address: str | None = None) -> None:
        if "all" not in roles and not (config.redis and ray_address):
            raise CannotStart(f"a machine that runs only {', '.join(sorted(roles))} needs --redis and --ray, which all machines share")
        self._config = config
        self._roles = roles
        self._ray_address = ray_address
        self._stack = ExitStack()
        self.redis_url = config.redis or ""

    @property
    def url(self) -> str:
        """Where the page and the API are."""
        return f"http://{self._config.host}:{self._config.port}"

    def __enter__(self) -> "Longwatch":
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        tracing.wanted()  # raises here, and not in every plane
        if self._roles != {"ingest"}:
            Seal.from_files(self._config.memory.key_files)  # what is wrong with a key is said before anything starts
        if not self._config.redis:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longwatch-redis-", ignore_cleanup_errors=True)))
            self.redis_url = stack.enter_context(PrivateRedis(folder)).url
        settings = Settings.of(self._config, self.redis_url)
        stack.enter_context(_RayCluster(self._ray_address))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _leave)  # Ray's own handler would end us without ending what we started
        planes: dict[str, Callable[[], Any]] = {
            "ingest": lambda: _actor("ingest", IngestActor, settings.registry_url),
            "prefill": lambda: _actor("prefill", PrefillActor, settings, take_from_ingest, gpus=_gpu_share()),
            "decode": lambda: self._decode(settings),
        }
        # Ray ends an actor when nobody holds it; what holds these lasts as long as this does, and closes them in reverse.
        for role, start in planes.items():
            if self._roles & {"all", role}:
                stack.callback(_close, start())
        _describe_site(Registry(settings.registry_url), self._config)  # last: a file starts to play when its camera is known

    def _decode(self, settings: Settings) -> Any:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        http = HTTPOptions(host=self._config.host, port=self._config.port, location="HeadOnly")
        serve.start(http_options=http, logging_config={"enable_access_log": False, "log_level": "WARNING"})
        options = {"num_cpus": 0.1, "num_gpus": _gpu_share()}
        decode = serve.deployment(Decode, name="decode", ray_actor_options=options, max_ongoing_requests=8, max_queued_requests=WAITING)
        handle = serve.run(decode.bind(settings), name="decode", route_prefix=None)
        fingerprint = handle.fingerprint.remote().result(timeout_s=READY_S)
        serve.run(api.deployment(settings, fingerprint, self._config.token), name="api", route_prefix="/")
        return _actor("rules", RulesActor, settings, fingerprint)


class _RayCluster:
    """A Ray of our own in its own folder, or a seat in the cluster named."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._folder: str | None = None

    def __enter__(self) -> None:
        if self._address:
            ray.init(address=self._address, namespace=NAMESPACE, log_to_driver=False)
            return
        self._folder = tempfile.mkdtemp(prefix="lw-")  # short: Ray puts sockets in it
        ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=self._folder,
        )

    def __exit__(self, *_: object) -> None:
        ray.shutdown()  # and with it, when the cluster is ours, Serve and whatever still runs in it
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _gpu_share() -> float:
    """What a plane with a model takes: a GPU, or half of the only one."""
    return min(1.0, float(ray.cluster_resources().get("GPU", 0.0)) / 2)


def _actor(name: str, kind: type, *arguments: object, gpus: float = 0.0) -> Any:
    """A named actor on this machine that Ray restarts for as long as there is a cluster."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 0, "max_concurrency": 4, "num_cpus": 0.1, "num_gpus": gpus}
    actor = ray.remote(kind).options(name=name, get_if_exists=True, scheduling_strategy=here, **options).remote(*arguments)
    if not ray.get(actor.ready.remote(), timeout=READY_S):
        raise CannotStart(f"the {name} plane did not start")
    return actor


def _close(actor: Any) -> None:
    """Let an actor finish what it is at, if it still can."""
    try:
        ray.get(actor.close.remote(), timeout=CLOSE_S)
    except (RayActorError, GetTimeoutError) as error:
        log.warning("closed without its consent: %s", error)


def take_from_ingest(limit: int, timeout_s: float) -> list[Frame]:
    """What is ready at the ingest, found by name: it may run on another machine, and may have been restarted."""
    frames: list[Frame] = ray.get(_ingest().take.remote(limit, timeout_s), timeout=timeout_s + 10)
    return frames


@cache
def _ingest() -> Any:
    return ray.get_actor("ingest", namespace=NAMESPACE)


def _describe_site(registry: Registry, config: Config) -> None:
    for camera in config.watched():
        registry.add_camera(camera)
    for rule in config.rules:
        registry.add_rule(rule.rule())


def _leave(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def wait_for_end() -> None:
    """Until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: ended.set())
    ended.wait()

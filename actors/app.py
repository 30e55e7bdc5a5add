"""The wiring: starts the planes on one machine, or one plane on a machine of a cluster, and ends what it started."""

import logging
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from actors import api, tracing
from actors.cluster import RayCluster
from actors.decode import Decode, serve_options
from actors.ingest import IngestActor
from actors.parts import NAMESPACE, Settings
from actors.plane import CLOSE_S, READY_S, THREADS, CannotStart, Plane, last_line, placed
from actors.prefill import PrefillActor
from actors.rules import RulesActor
from pipeline.config import Config
from pipeline.core import Mode
from pipeline.sharing import Share
from storage.redis_server import PrivateRedis
from storage.registry import Registry
from storage.seal import Seal

log = logging.getLogger(__name__)


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
        self.mode: Mode | None = None  # of the model that answers here, once started

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
        cluster = RayCluster(self._ray_address)  # before Redis, which needs some room too
        if not self._config.redis:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longwatch-redis-", ignore_cleanup_errors=True)))
            self.redis_url = stack.enter_context(PrivateRedis(folder)).socket_url
        settings = Settings.of(self._config, self.redis_url)
        stack.enter_context(cluster)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _leave)  # Ray's own handler would end us without ending what we started
        closing: list[Callable[[], object]] = []
        stack.callback(_close_all, closing)
        started = closing.append
        fingerprint = ""
        if self._wants("ingest"):
            started(Plane("ingest", IngestActor, settings.registry_url, threads=THREADS + settings.prefillers).close)
        if self._wants("prefill"):
            _start_prefill(settings, started)
        if self._wants("decode"):
            with _named("decode plane"):
                fingerprint = self._start_decode(settings)
            started(Plane("rules", RulesActor, settings, fingerprint, role="decode").close)
        _describe_site(Registry(settings.registry_url), self._config)  # not before: a file starts to play when its camera is known
        if self._wants("decode"):
            with _named("API"):  # last: who can ask is told of every camera
                serve.run(api.deployment(settings, fingerprint, self.mode, self._config.token), name="api", route_prefix="/")
            closing.append(_end_answering)

    def _wants(self, role: str) -> bool:
        return bool(self._roles & {"all", role})

    def _start_decode(self, settings: Settings) -> str:
        """Starts who decodes, and gives the model's fingerprint."""
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        http = HTTPOptions(host=self._config.host, port=self._config.port)
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config={"enable_access_log": False, "log_level": "WARNING"})
        options = serve_options(self._config.decode, _gpu_share(settings))
        options["ray_actor_options"] |= placed("decode")
        decode = serve.deployment(Decode, **options, **api.HEALING)
        handle = serve.run(decode.bind(settings), name="decode", route_prefix=None)
        fingerprint, self.mode = handle.model.remote().result(timeout_s=READY_S)
        handle.shutdown()  # what it tells the autoscaler again and again would outlive Ray
        return str(fingerprint)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Whatever Serve has to say of what does not start is said of this."""
    try:
        yield
    except (RayError, RayServeException, TimeoutError, RuntimeError) as error:  # RuntimeError: what Serve raises of a deployment
        raise CannotStart(f"the {what} did not start: {last_line(error)}") from error


def _start_prefill(settings: Settings, started: Callable[[Callable[[], object]], None]) -> None:
    """All at once: each loads a model. How to close each that starts is told, also when another does not."""
    gpus = _gpu_share(settings)

    def start(number: int, name: str) -> None:
        started(Plane(name, PrefillActor, settings, come_to_ingest, name, role="prefill", number=number, gpus=gpus).close)

    with ThreadPoolExecutor() as pool:
        list(pool.map(start, range(settings.prefillers), settings.prefill_planes))


def _gpu_share(settings: Settings) -> float:
    """What each who has a model takes of a GPU: all of one, or an even part where there are fewer than prefillers and one who decodes."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return 1 / ceil((settings.prefillers + 1) / gpus) if gpus else 0.0


def _close_all(closing: Sequence[Callable[[], object]]) -> None:
    """All at once; who is not done within CLOSE_S is not waited for."""
    deadline = time.monotonic() + CLOSE_S
    threads = [threading.Thread(target=_until_over, args=(close,), daemon=True) for close in closing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _until_over(close: Callable[[], object]) -> None:
    try:
        close()
    except (RayError, RayServeException) as error:  # Ray itself was ended meanwhile
        log.warning("not waited for any longer: %s", error)


def _end_answering() -> None:
    """Take no more questions, and answer those under way."""
    serve.delete("api")
    serve.delete("decode", _blocking=False)


def come_to_ingest(name: str, holding: Mapping[str, int], limit: int, timeout_s: float) -> Share:
    """A prefiller's share at the ingest, found by name: it may run on another machine. While it is being restarted, this waits for it."""
    ingest = ray.get_actor("ingest", namespace=NAMESPACE)
    come = ingest.share.options(max_task_retries=-1)  # what a killed ingest had is gone with it: asking again repeats nothing
    share: Share = ray.get(come.remote(name, holding, limit, timeout_s), timeout=timeout_s + 10)
    return share


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

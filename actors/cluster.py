"""The Ray that Longwatch runs in: one of its own, or a cluster that somebody else runs."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

import ray

from actors.parts import NAMESPACE
from actors.plane import CannotStart

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 * 1024 * 1024
LOG_BYTES = 64 * 1024 * 1024  # of room for what Ray writes down
ENVIRONMENT = {  # of Ray's processes, where the cluster is ours; whoever runs a cluster sets the same
    "RAY_worker_niceness": "0",  # Ray's 15 lets any other work on the machine starve the planes
    "RAY_task_events_report_interval_ms": "0",  # for a dashboard that is not there, Ray would keep 3 KB of each of 100,000 calls
    "RAY_health_check_period_ms": "1000",  # a machine that is gone is given up after three; Ray's own figures make that 15 s
    "RAY_health_check_failure_threshold": "3",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a killed proxy is replaced after three; Ray's 10 make that half a minute
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # one that starts slowly, on a busy machine, is none that failed, as after Ray's 5
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "actors.edge.middlewares",
}


class RayCluster:
    """A Ray of our own in its own folder, or a seat in the cluster named. Raises CannotStart when there is no room for one of our own.

    One of our own takes itself to have so many `cpus`, whatever the machine has.
    """

    def __init__(self, address: str | None, *, cpus: int | None = None) -> None:
        if not address:
            _demand_room(Path(tempfile.gettempdir()), Path("/dev/shm"))
        self._address, self._cpus = address, cpus
        self._folder: str | None = None

    def __enter__(self) -> None:
        if self._address:
            ray.init(address=self._address, namespace=NAMESPACE, log_to_driver=False)
            return
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._folder = tempfile.mkdtemp(prefix="lw-")  # short: Ray puts sockets in it
        try:
            ray.init(
                address="local",
                namespace=NAMESPACE,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                num_cpus=self._cpus,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=self._folder,
            )
        except BaseException:  # nothing of it is left behind, whatever ended it
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        ray.shutdown()  # and with it, when the cluster is ours, Serve and whatever still runs in it
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _demand_room(folder: Path, shared: Path) -> None:
    """Said at once and in words: Ray itself would say after a minute that it timed out, or lose frames one by one."""
    is_enough = shared.is_dir() and shutil.disk_usage(shared).free >= OBJECT_STORE_BYTES
    needed, free = LOG_BYTES + (0 if is_enough else OBJECT_STORE_BYTES), shutil.disk_usage(folder).free
    if free < needed:
        there = "" if is_enough else f" ({OBJECT_STORE_BYTES >> 20} of them since {shared} has too little)"
        raise CannotStart(f"{folder} has {free >> 20} MiB free and Ray needs {needed >> 20}{there}: make room there, or set TMPDIR")
    if not is_enough:
        log.warning("%s has too little room: Ray keeps frames in %s, which is slower (containers: shm_size)", shared, folder)

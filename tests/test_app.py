"""What cannot be started is said in words, and leaves nothing behind; what dies is started again."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from carriers import eventually
from ray.exceptions import GetTimeoutError, RayActorError

from actors import app
from actors.app import Longwatch
from actors.demo import free_port
from actors.parts import Settings
from actors.plane import CannotStart, Plane
from pipeline.config import Config


@pytest.mark.ray
@pytest.mark.redis
def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("lw-*"))
    with pytest.raises(CannotStart, match=f"prefill plane did not start: .*UnknownBackbone: model {tmp_path / 'nothing'}"):
        Longwatch(Config(model=str(tmp_path / "nothing"), port=free_port(0))).__enter__()
    assert set(Path(tempfile.gettempdir()).glob("lw-*")) <= before


def test_prefill_actors_that_started_beside_one_that_did_not_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class OneFails:
        def __init__(self, name: str, *_: object, **__: object) -> None:
            if name == "prefill-2":
                raise CannotStart(name)
            self.close = lambda: closed.append(name)

    monkeypatch.setattr(app, "Plane", OneFails)
    monkeypatch.setattr(app, "_gpu_share", lambda settings: 0.0)
    started: list[Callable[[], object]] = []
    with pytest.raises(CannotStart, match="prefill-2"):
        app._start_prefill(Settings(redis_url="", registry_url="", model="embedded", prefillers=3), started.append)
    for close in started:
        close()
    assert sorted(closed) == ["prefill", "prefill-3"]


@pytest.mark.ray
def test_a_plane_that_fails_as_it_is_restarted_is_started_again_once_it_can_be(tmp_path: Path) -> None:
    class Fragile:  # in here: Ray's processes cannot import a test
        """Starts only while a file is there, as an actor whose store is away."""

        def __init__(self, needed: Path) -> None:
            needed.stat()

        def ready(self) -> bool:
            return True

        def pid(self) -> int:
            return os.getpid()

        def close(self) -> None:
            pass

    needed = tmp_path / "store"
    needed.touch()
    with ray.init(address="local", namespace="planes", include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False):
        plane = Plane("fragile", Fragile, needed)
        needed.unlink()
        os.kill(ray.get(ray.get_actor("fragile").pid.remote()), signal.SIGKILL)
        eventually(lambda: plane._loop.failures > 0, 120)
        assert "FileNotFoundError" in str(plane._loop.error)
        needed.touch()
        eventually(lambda: _lives("fragile"), 120)
        plane.close()


SMALL = """
mount -t tmpfs -o size={shared} tmpfs /dev/shm && mount -t tmpfs -o size={folder} tmpfs {at} || exit 77
TMPDIR={at} exec {python} -c '{script}'
"""
FRAMES = """
import numpy as np, ray
from actors.cluster import RayCluster
class Giver:
    def give(self, count): return [np.full((360, 640, 3), number, np.uint8) for number in range(count)]
with RayCluster(None):
    giver = ray.remote(Giver).options(num_cpus=0.1).remote()
    print([int(frame[0, 0, 0]) for frame in ray.get(giver.give.remote(32))] == list(range(32)))
"""


def in_small_rooms(at: Path, script: str, shared: str, folder: str) -> subprocess.CompletedProcess[str]:
    """What a program says that has so little of /dev/shm and of a folder for temporary files, in a name space of its own."""
    commands = SMALL.format(at=at, script=script, shared=shared, folder=folder, python=sys.executable)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", commands]
    said = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    if said.returncode == 77 or "unshare:" in said.stderr:
        pytest.skip("needs to mount in a name space of its own")
    return said


@pytest.mark.ray
def test_no_shared_memory_is_said_and_frames_travel_all_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    said = in_small_rooms(tmp_path_factory.mktemp("t"), FRAMES, shared="64k", folder="2g")
    assert said.stdout == "True\n", said.stderr
    assert "/dev/shm has too little room" in said.stderr and "shm_size" in said.stderr


@pytest.mark.ray
@pytest.mark.parametrize(("shared", "folder", "words"), [("1g", "1m", "Ray needs 64: make"), ("64k", "100m", "Ray needs 320 (256 of them")])
def test_a_full_disk_is_said_in_words(tmp_path: Path, shared: str, folder: str, words: str) -> None:
    up = 'from actors.cli import main; import sys; sys.argv = ["longwatch", "up"]; main()'
    said = in_small_rooms(tmp_path, up, shared, folder)
    assert said.returncode == 1 and "Traceback" not in said.stderr
    told = " ".join(said.stderr.split())
    assert words in told and "set TMPDIR" in told and "MiB free" in told


def _lives(name: str) -> bool:
    try:
        return bool(ray.get(ray.get_actor(name).ready.remote(), timeout=10))
    except (RayActorError, GetTimeoutError, ValueError):
        return False


def test_a_call_after_the_end_starts_no_other_ray() -> None:
    late = "import actors.app, ray; ray.get_actor('ingest', namespace='longwatch')"
    said = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, timeout=200, check=False)
    assert "RaySystemError" in said.stderr
    assert "Started a local Ray instance" not in said.stderr

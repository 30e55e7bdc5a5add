"""Looks whether this machine has what Longwatch needs, and says how to mend what it has not."""

import importlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import model
from actors.findings import Finding
from model.habits import Habits
from pipeline.codecs import HARDWARE
from pipeline.config import EMBEDDED_MODEL, LOOPBACK, Config
from pipeline.core import StoreUnavailable
from storage.connect import connect, reaching

GIB = 1 << 30
LEAST_FREE = 2 * GIB
LEAST_SHM = GIB // 4
NVIDIA = Path("/proc/driver/nvidia")  # its driver is loaded
SETUP = "scripts/setup.sh"
INSTALL = "sudo apt-get install -y --no-install-recommends "

# What pipeline/camera.py builds its graphs of, if by the CPU, by the Debian package that brings it. In one word any will do.
ELEMENTS = {
    "gstreamer1.0-plugins-base": ("filesrc", "capsfilter", "parsebin", "videoconvertscale", "appsink"),
    "gstreamer1.0-plugins-good": ("rtspsrc", "souphttpsrc", "rtph264depay", "rtph265depay", "rtpjpegdepay", "jpegdec|avdec_mjpeg"),
    "gstreamer1.0-plugins-bad": ("h264parse", "h265parse", "jpegparse"),
    "gstreamer1.0-libav": ("avdec_h264|openh264dec", "avdec_h265|libde265dec"),
}


def diagnose(config: Config | None, redis_url: str | None, port: int) -> list[Finding]:
    """Everything there is to find, in seconds. Changes nothing; `redis_url` goes before the configuration's."""
    url = redis_url or (config.redis if config else None)
    return [
        _python(),
        *_gstreamer(),
        *(_redis_at(url) if url else [_redis_program()]),
        _port(config.host if config else LOOPBACK[0], port),
        *(_room(folder) for folder in dict.fromkeys((Path(tempfile.gettempdir()), Path.home()))),
        _memory(),
        _shared_memory(),
        *_model(config.model if config else EMBEDDED_MODEL, config.adapter if config else None),
        _ray(),
        _gpu(),
    ]


def _python() -> Finding:
    return Finding(
        what="Python",
        ok=sys.version_info >= (3, 11),
        detail=f"{platform.python_version()} ({sys.executable})",
        mend="" if sys.version_info >= (3, 11) else f"use Debian 12, Ubuntu 24.04 or newer, and run {SETUP} again",
    )


def _gstreamer() -> list[Finding]:
    try:
        gst = _gst()
    except (ImportError, ValueError) as error:  # no binding; a binding without its library
        mend = f"{INSTALL}python3-gi gir1.2-gst-plugins-base-1.0; then {SETUP}, whose .venv sees the distribution's packages"
        return [Finding(what="GStreamer", ok=False, detail=f"cannot be used from this Python: {error}", mend=mend)]
    fast = importlib.util.find_spec("gi.overrides.Gst") is not None
    binding = Finding(
        what="GStreamer",
        ok=fast,
        detail=gst.version_string() + ("" if fast else ", without its Python overrides: pictures cannot be read"),
        mend="" if fast else f"{INSTALL}python3-gst-1.0",
    )
    return [binding, *(_elements(gst, package) for package in ELEMENTS), _simulator(gst), _hardware(gst)]


def _gst() -> Any:
    """GStreamer, initialised. Imported here, since a machine to be examined may lack it."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import Gst

    Gst.init(None)
    return Gst


def _elements(gst: Any, package: str) -> Finding:
    missing = [one for one in ELEMENTS[package] if not any(gst.ElementFactory.find(name) for name in one.split("|"))]
    return Finding(
        what=package,
        ok=not missing,
        detail=f"no {', '.join(missing).replace('|', ' or ')}" if missing else "its elements are there",
        mend=f"{INSTALL}{package}; rm -rf ~/.cache/gstreamer-1.0" if missing else "",
    )


def _simulator(gst: Any) -> Finding:
    """A note, since only the demo needs it."""
    import gi

    packages = [] if gst.ElementFactory.find("x264enc") else ["gstreamer1.0-plugins-ugly"]
    packages += [] if importlib.util.find_spec("cairo") else ["python3-cairo"]
    try:
        gi.require_version("GstRtspServer", "1.0")
    except ValueError:
        packages.append("gir1.2-gst-rtsp-server-1.0")
    detail = f"the demo cannot run without {' '.join(packages)}" if packages else "the demo has what it needs"
    return Finding(what="simulated cameras", ok=None, detail=detail, mend=INSTALL + " ".join(packages) if packages else "")


def _hardware(gst: Any) -> Finding:
    found = [name for names in HARDWARE.values() for name in names if gst.ElementFactory.find(name)]
    return Finding(what="hardware decoding", ok=None, detail=", ".join(found) or "none here: cameras are decoded by the CPU")


def _redis_program() -> Finding:
    program = shutil.which("redis-server")
    if program is None:
        return Finding(what="Redis", ok=False, detail="no redis-server here, and no URL of one", mend=f"{INSTALL}redis-server")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout.split()
    release = next((word.removeprefix("v=") for word in told if word.startswith("v=")), "of unknown version")
    return Finding(what="Redis", ok=True, detail=f"redis-server {release} ({program}); Longwatch starts one of its own")


def _redis_at(url: str) -> list[Finding]:
    try:
        with reaching(), connect(url) as client:
            told = client.info()
    except (StoreUnavailable, ValueError) as error:  # ValueError: not a URL
        mend = "start it, or correct its URL in `redis:`; without one, Longwatch starts a Redis of its own"
        return [Finding(what="Redis", ok=False, detail=str(error), mend=mend)]
    release = told.get("redis_version", "of unknown version")
    if "err" in (told.get("rdb_last_bgsave_status"), told.get("aof_last_write_status")):
        mend = "make room in its folder (df -h; redis-cli config get dir), or turn saving off (redis-cli config set save '')"
        detail = f"{release}, answers, but cannot write to its disk, and so may refuse to remember anything"
        return [Finding(what="Redis", ok=False, detail=detail, mend=mend), _redis_policy(url)]
    return [Finding(what="Redis", ok=True, detail=f"{release}, answers"), _redis_policy(url)]


def _redis_policy(url: str) -> Finding:
    """Under an allkeys policy a full server may throw away the time indexes too, and all they lead to."""
    try:
        with reaching(), connect(url) as client:
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "")
    except StoreUnavailable:
        return Finding(what="maxmemory-policy", ok=None, detail="this Redis does not tell; it should be volatile-ttl")
    good = policy.startswith("volatile") or policy == "noeviction"
    mend = "" if good else "redis-cli config set maxmemory-policy volatile-ttl"
    return Finding(what="maxmemory-policy", ok=None, detail=policy + ("" if good else ": when full, it may forget time indexes"), mend=mend)


def _port(host: str, port: int) -> Finding:
    what = f"port {port}"
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        mend = f"ss -ltnp 'sport = :{port}' shows by what (a running Longwatch?); or choose another with --port"
        return Finding(what=what, ok=False, detail=f"cannot be opened on {host}: {os.strerror(error.errno or 0)}", mend=mend)
    return Finding(what=what, ok=True, detail=f"free on {host}")


def _room(folder: Path) -> Finding:
    what = f"disk of {folder}"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(what=what, ok=False, detail=str(error.strerror), mend=f"mkdir -p {folder}")
    mend = "" if free >= LEAST_FREE else f"du -xh {folder} | sort -h | tail shows what fills it; TMPDIR moves temporary files"
    return Finding(what=what, ok=free >= LEAST_FREE, detail=f"{_gib(free)} free", mend=mend)


def _memory() -> Finding:
    available = min(_host_memory(), _container_memory(), key=lambda size: size if size is not None else sys.maxsize)
    if available is None:
        return Finding(what="memory", ok=None, detail="this system does not tell how much is available")
    mend = "" if available >= LEAST_FREE else "end other programs, or give the container more (mem_limit)"
    return Finding(what="memory", ok=available >= LEAST_FREE, detail=f"{_gib(available)} available", mend=mend)


def _host_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_memory(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left of a container's own limit, files that can be read again not counted; None without one."""
    try:
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        counted = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such file; "max"
        return None
    return limit - used + int(counted.get("inactive_file", 0))


def _shared_memory() -> Finding:
    try:
        total = shutil.disk_usage("/dev/shm").total
    except OSError:
        return Finding(what="/dev/shm", ok=None, detail="none: Ray keeps frames in the temporary folder, which is slower")
    mend = "" if total >= LEAST_SHM else "docker run --shm-size=1g, or shm_size: 1g in compose; else Ray uses the slower temporary folder"
    return Finding(what="/dev/shm", ok=None if mend else True, detail=_gib(total), mend=mend)


def _model(name: str, adapter: Path | None) -> list[Finding]:
    embedded = name == EMBEDDED_MODEL
    folder = Path(model.__path__[0], "embedded") if embedded else Path(name).expanduser()
    what = "embedded model" if embedded else "model"
    mode = _mode(adapter or folder)
    if not embedded and not folder.is_dir():
        detail = f"{name}: no folder, so it is taken from Hugging Face's cache, or fetched at the first start"
        return [Finding(what=what, ok=None, detail=detail), mode]
    try:
        size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix == ".safetensors")
    except OSError as error:
        size, detail = 0, f"{folder}: {error.strerror}"
    else:
        detail = f"{folder}, {size / 1e6:.1f} MB" if size else f"{folder} holds no weights (*.safetensors)"
    mend = "git checkout -- model/embedded, or install Longwatch again" if embedded else "correct `model:`: a folder, a name, or embedded"
    return [Finding(what=what, ok=size > 0, detail=detail, mend="" if size else mend), mode]


def _mode(folder: Path) -> Finding:
    """A note, since a model works either way."""
    if (taught := Habits.load(folder)) and taught.mode == "carriers":
        return Finding(what="mode", ok=None, detail="carriers")
    detail = "training-free: the model was not taught to read carriers, so it reads whole frames (docs/backbones.md)"
    return Finding(what="mode", ok=None, detail=detail, mend="longwatch train, then --adapter FOLDER (docs/training.md)")


def _ray() -> Finding:
    if (problem := _import_problem("ray")) is not None:
        return Finding(what="Ray", ok=False, detail=problem, mend=SETUP)
    return Finding(what="Ray", ok=True, detail=_version("ray"))


def _gpu() -> Finding:
    """A note, since a CPU will do; but torch itself must be there."""
    if (problem := _import_problem("torch")) is not None:
        return Finding(what="torch", ok=False, detail=problem, mend=SETUP)
    cuda: Any = importlib.import_module("torch").cuda
    if cuda.is_available():
        return Finding(what="GPU", ok=None, detail=f"{cuda.get_device_name(0)}, torch {_version('torch')}")
    detail = f"none that torch {_version('torch')} can use: the model runs on the CPU"
    return Finding(what="GPU", ok=None, detail=detail, mend=f"rm -rf .venv; {SETUP} without TORCH_INDEX" if NVIDIA.exists() else "")


def _import_problem(name: str) -> str | None:
    """Why a package cannot be imported; a damaged one counts."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: torch, when a library it links to is missing
        return f"cannot be imported: {error}"
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"

"""The doctor: a well machine is called well, and every lack has its remedy."""

import io
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults import Servers
from rich.console import Console

from actors import doctor
from actors.doctor import diagnose
from actors.findings import Finding, is_well, render
from model.habits import Habits
from pipeline.config import Config
from storage.connect import connect
from storage.redis_server import PrivateRedis


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free: int = server.getsockname()[1]
        return free


@pytest.fixture(autouse=True)
def without_heavy_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for torch and Ray without importing them, which takes seconds."""
    monkeypatch.setattr(doctor, "_import_problem", lambda name: None)
    monkeypatch.setattr(doctor, "_gpu", lambda: Finding(what="GPU", ok=None, detail="none"))


def named(findings: Sequence[Finding], what: str) -> Finding:
    (found,) = [finding for finding in findings if finding.what == what]
    return found


def weights(folder: Path) -> Config:
    (folder / "model.safetensors").write_bytes(b"weights")
    return Config(model=str(folder))


@pytest.mark.gst
def test_a_machine_that_runs_the_tests_is_well(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 20)  # what else it runs just now may take the rest
    findings = diagnose(weights(tmp_path), None, port)
    assert is_well(findings), [finding for finding in findings if finding.ok is False]
    assert "GStreamer 1." in named(findings, "GStreamer").detail


def test_whatever_is_wrong_says_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 60)
    monkeypatch.setattr(doctor, "LEAST_SHM", 1 << 60)
    monkeypatch.setattr(doctor, "_import_problem", lambda name: "cannot be imported: it is damaged")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "gi", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        findings = diagnose(Config(model=str(tmp_path)), None, port)
    wrong = {finding.what for finding in findings if finding.ok is False}
    assert {"GStreamer", "Redis", "memory", "model", "Ray", f"port {port}"} <= wrong
    assert all(finding.mend and "\n" not in finding.mend for finding in findings if finding.ok is False)
    assert not is_well(findings)


@pytest.mark.gst
def test_a_missing_element_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int) -> None:
    package = "gstreamer1.0-plugins-bad"
    monkeypatch.setitem(doctor.ELEMENTS, package, ("h264parse", "nosuchparse|norsuch"))
    found = named(diagnose(weights(tmp_path), None, port), package)
    assert found.ok is False and found.detail == "no nosuchparse or norsuch" and package in found.mend


@pytest.mark.redis
def test_a_redis_that_answers_is_named_with_its_version(redis_url: str, tmp_path: Path, port: int) -> None:
    findings = diagnose(weights(tmp_path), redis_url, port)
    assert named(findings, "Redis").ok and named(findings, "Redis").detail.endswith(", answers")
    assert named(findings, "maxmemory-policy") == Finding(what="maxmemory-policy", ok=None, detail="volatile-ttl")


@pytest.mark.redis
def test_a_redis_that_would_forget_indexes_is_noted(redis_server: PrivateRedis, redis_url: str) -> None:
    with connect(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        found = named(diagnose(None, redis_url, 0), "maxmemory-policy")
        client.config_set("maxmemory-policy", "volatile-ttl")
    assert found.ok is None and "allkeys-lru" in found.detail and "volatile-ttl" in found.mend


@pytest.mark.redis
@pytest.mark.parametrize("fault", ["no_room_for_snapshots", "no_room_to_append"])
def test_a_redis_whose_disk_is_full_is_wrong(tmp_path: Path, fault: str) -> None:
    servers = Servers(tmp_path)
    with getattr(servers, fault)():
        found = named(diagnose(None, servers.first.url, 0), "Redis")
    servers.close()
    assert found.ok is False and "cannot write to its disk" in found.detail and "df -h" in found.mend


@pytest.mark.parametrize("url", ["redis://:s3cret@127.0.0.1:1/0", "localhost:6379"])
def test_a_redis_that_cannot_be_reached_is_wrong_and_its_password_is_not_shown(url: str, tmp_path: Path, port: int) -> None:
    found = named(diagnose(weights(tmp_path).model_copy(update={"redis": url}), None, port), "Redis")
    assert found.ok is False and found.mend and "s3cret" not in found.detail


def test_a_model_is_a_folder_with_weights_or_a_name(tmp_path: Path) -> None:
    empty = named(diagnose(Config(model=str(tmp_path)), None, 0), "model")
    assert empty.ok is False and "no weights" in empty.detail
    assert named(diagnose(Config(model="llava-hf/some-name"), None, 0), "model").ok is None
    assert named(diagnose(weights(tmp_path), None, 0), "model").ok is True


def test_a_model_that_was_never_taught_is_said_to_be_used_without_training(tmp_path: Path) -> None:
    untaught, taught = weights(tmp_path), tmp_path / "adapter"
    taught.mkdir()
    Habits().save(taught)
    for config in (untaught, Config(model="llava-hf/some-name")):
        found = named(diagnose(config, None, 0), "mode")
        assert found.ok is None and found.detail.startswith("training-free") and "--adapter" in found.mend
        adapted = named(diagnose(config.model_copy(update={"adapter": taught}), None, 0), "mode")
        assert (adapted.detail, adapted.mend) == ("carriers", "")
    assert named(diagnose(None, None, 0), "mode").detail == "carriers"  # the embedded model
    Habits(mode="training-free", patches=8).save(tmp_path)
    assert named(diagnose(untaught, None, 0), "mode").detail.startswith("training-free")


def test_the_table_shows_every_finding_and_remedy() -> None:
    findings = [Finding(what="[disk]", ok=False, detail="[full]", mend="[empty it]"), Finding(what="GPU", ok=None, detail="none")]
    out = io.StringIO()
    Console(file=out, width=100).print(render(findings))
    assert all(text in out.getvalue() for text in ("wrong", "[disk]", "[full]", "-> [empty it]", "note", "GPU", "none"))
    assert not is_well(findings) and is_well(findings[1:])


def test_a_containers_memory_is_not_taken_by_files_that_can_be_read_again(tmp_path: Path) -> None:
    assert doctor._container_memory(tmp_path) is None
    for name, text in (("memory.max", "max\n"), ("memory.current", "900\n"), ("memory.stat", "anon 200\ninactive_file 600\n")):
        (tmp_path / name).write_text(text)
    assert doctor._container_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert doctor._container_memory(tmp_path) == 700

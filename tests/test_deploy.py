"""docker-compose.yml and the image it builds: valid, private by default, and in step with the command line."""

import importlib
import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
LONGWATCH = {name: service for name, service in SERVICES.items() if service["command"][:2] == ["longwatch", "up"]}


def test_compose_keeps_to_its_specification() -> None:
    """The schema is schema/compose-spec.json of compose-spec/compose-spec (Apache-2.0) at 170098ba."""
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker()).validate(COMPOSE)


def test_the_check_against_the_specification_can_fail() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))
    assert not jsonschema.Draft7Validator(schema).is_valid(COMPOSE | {"services": {"redis": {"imag": "redis:7"}}})


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_restarts_is_watched_and_is_not_privileged(name: str) -> None:
    service = SERVICES[name]
    assert service["command"] and service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service)
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


def test_only_the_api_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"decode": ["127.0.0.1:8600:8600"], "decode-gpu": ["127.0.0.1:8600:8600"]}


@pytest.mark.parametrize(
    ("profile", "roles"),
    [
        ("demo", {"redis", "cameras", "head", "ingest", "prefill", "decode"}),
        ("cpu", {"redis", "head", "ingest", "prefill", "decode"}),
        ("gpu", {"redis", "head", "ingest", "prefill-gpu", "decode-gpu"}),
        ("demo-gpu", {"redis", "cameras", "head", "ingest", "prefill-gpu", "decode-gpu"}),
    ],
)
def test_each_profile_starts_one_of_each_role(profile: str, roles: set[str]) -> None:
    assert {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])} == roles


def test_gpu_services_differ_only_in_image_and_device() -> None:
    for role in ("prefill", "decode"):
        cpu, gpu = SERVICES[role], SERVICES[f"{role}-gpu"]
        assert {key for key in cpu.keys() | gpu.keys() if cpu.get(key) != gpu.get(key)} == {"image", "deploy", "profiles"}
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_redis_is_bounded_and_never_evicts_an_index() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--maxmemory " in command and "--maxmemory-policy volatile-ttl" in command


def test_every_node_of_the_cluster_shows_a_token() -> None:
    for name in {"head"} | set(LONGWATCH):
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token", name


def test_the_image_runs_as_a_user_with_a_home() -> None:
    assert re.search(r"^USER (?!root)\w+", DOCKERFILE, re.MULTILINE)
    assert "useradd --create-home" in DOCKERFILE


def test_files_that_compose_and_the_image_name_exist() -> None:
    for named in re.findall(r"/src/(deploy/\S+)", DOCKERFILE):
        assert (ROOT / named).is_file(), named
    assert (ROOT / SERVICES["decode"]["build"]["dockerfile"]).is_file()
    assert (ROOT / "deploy/longwatch.demo.yaml").is_file()


def test_the_entrypoint_is_valid_shell() -> None:
    subprocess.run(["sh", "-n", str(ROOT / "deploy/entrypoint.sh")], check=True)


@pytest.mark.skipif(importlib.util.find_spec("actors.cli") is None, reason="actors/cli.py does not exist yet")
def test_every_option_used_exists() -> None:
    cli = importlib.import_module("actors.cli")
    up = typer.main.get_command(cli.app).commands["up"]  # type: ignore[attr-defined]
    known = {option for parameter in up.params for option in parameter.opts}
    used = {word for service in LONGWATCH.values() for word in service["command"] if word.startswith("-")}
    assert used and used <= known
    assert {"ingest", "prefill", "decode"} == {service["command"][3] for service in LONGWATCH.values()}


@pytest.mark.skipif(importlib.util.find_spec("simulator.serve") is None, reason="simulator/serve.py does not exist yet")
def test_the_simulated_cameras_are_the_ones_the_demo_watches() -> None:
    from simulator.visits import CAMERAS

    assert set(yaml.safe_load((ROOT / "deploy/longwatch.demo.yaml").read_text(encoding="utf-8"))["cameras"]) == set(CAMERAS)

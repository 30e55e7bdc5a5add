"""longwatch.yaml: what it may say, and that every mistake is named with its place and its remedy."""

from pathlib import Path

import pytest

from pipeline.config import BadConfig, Config, load_config
from pipeline.core import Camera, Form, Rule

DEPLOY = Path(__file__).parent.parent / "deploy"
ENVIRONMENT = {"GATE_PASSWORD": "hunter2", "LONGWATCH_TOKEN": "t0ken", "HOOK_KEY": "h00k"}


def load(folder: Path, text: str) -> Config:
    file = folder / "longwatch.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, ENVIRONMENT)


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(BadConfig) as caught:
        load(folder, text)
    message = str(caught.value)
    assert message.startswith(str(folder / "longwatch.yaml"))
    assert "hunter2" not in message
    return message.replace(str(folder / "longwatch.yaml"), "FILE")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert (config.model, config.redis, config.host, config.port, config.token) == ("embedded", None, "127.0.0.1", 8600, None)
    assert (config.memory.carriers, config.memory.keep_hours, config.memory.keep_pictures_hours) == (None, 336, 72)
    assert (config.memory.form, config.memory.key_files) == (Form.INT8, ())
    assert (config.memory.keep_gb_per_camera, config.memory.cache_mb, config.registry_redis) == (8, 768, None)
    assert (config.decode.min_replicas, config.decode.max_replicas) == (1, 1)
    assert config.watched() == [] and config.rules == ()


def test_the_example_loads_and_shows_no_secret() -> None:
    config = load_config(DEPLOY / "longwatch.example.yaml", ENVIRONMENT)
    assert config.watched() == [
        Camera(id="gate", uri="rtsp://viewer:hunter2@192.0.2.10/stream1"),
        Camera(id="dock", uri="rtsp://192.0.2.11/stream1", fps=2),
    ]
    rule = Rule(id="truck-at-dock", condition="a truck is at the dock", cameras=("dock",), webhook="https://hooks.example.com/h00k")
    assert [section.rule() for section in config.rules] == [rule]
    assert config.token == "t0ken"
    assert all(secret not in repr(config) for secret in ENVIRONMENT.values())


def test_the_example_says_the_defaults(tmp_path: Path) -> None:
    example, default = load_config(DEPLOY / "longwatch.example.yaml", ENVIRONMENT), load(tmp_path, "")
    for key in ("model", "adapter", "redis", "registry_redis", "host", "port", "memory", "decode"):
        assert getattr(example, key) == getattr(default, key)


def test_the_demo_loads_with_nothing_set() -> None:
    assert {camera.id for camera in load_config(DEPLOY / "longwatch.demo.yaml", {}).watched()} == {"gate", "yard", "dock", "lobby"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camera: {}", "FILE: camera: unknown key; did you mean cameras?"),
        ("cameras: {gate: {url: rtsp://h}}", "cameras.gate.url: unknown key; did you mean uri?"),
        (
            "memory: {weeks: 2}",
            "memory.weeks: unknown key; here may stand carriers, live_policy, keep_hours, keep_pictures_hours, keep_gb_per_camera",
        ),
        ("memory: {form: int2}", "memory.form: Input should be 'exact', 'float16', 'int8' or 'int4'"),
        ("memory: {live_policy: best}", "memory.live_policy: Input should be 'paper', 'recency', 'uniform' or 'merge'"),
        ("memory: {key_files: /etc/memory.key}", "memory.key_files: Input should be a valid tuple"),
        ("decode: {min_replicas: 2}", "decode: min_replicas 2 is above max_replicas 1; raise max_replicas too"),
        ("decode: {replicas: 2}", "decode.replicas: unknown key; did you mean min_replicas?"),
        ("cameras: {gate: {fps: 2}}", "cameras.gate.uri: is needed, and missing"),
        ("cameras: {gate: null}", "cameras.gate: keys are needed here"),
        ("cameras: {Gate: 'rtsp://h'}", "cameras: camera id 'Gate': use 1-63 of a-z"),
        ("cameras: {gate: {uri: 'rtsp://u:hunter2@h', fps: 99}}", "fps must be above 0 and at most 30"),
        ("cameras: {gate: {uri: 'rtsp://u:hunter2@h', fps: fast}}", "cameras.gate.fps: Input should be a valid number"),
        ("cameras: {gate: 'rtsp://${MISSING}@h'}", "cameras.gate.uri: the environment variable MISSING is not set"),
        ("token: ${MISSING}", "token: the environment variable MISSING is not set"),
        ("host: 0.0.0.0", "token: needed since host 0.0.0.0 lets others in"),
        ("port: 0", "port: Input should be greater than or equal to 1"),
        ("rules: [{id: r, condition: c, cameras: [pier]}]", "rules: r: no camera pier; there is none"),
        ("rules: [{id: r, condition: c}, {id: r, condition: d}]", "rules: each id once only, not r again"),
        ("rules: [{id: r, condition: c, webhook: 'file:///hunter2'}]", "rules.0.webhook: must begin with http:// or https://"),
        ("rules: [{id: r, condition: c, treshold: 1}]", "rules.0.treshold: unknown key; did you mean threshold?"),
        ("a: [", "FILE, line 1: not valid YAML"),
        ("- gate", "FILE: keys are needed here"),
        ("cameras: {a: !!python/object/apply:os.system ['true']}", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, text: str, said: str) -> None:
    assert said in complaint(tmp_path, text)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    assert complaint(tmp_path, "port: 0\nmodel: ''\nhots: h").count("FILE: ") == 3


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


def test_only_secrets_name_variables(tmp_path: Path) -> None:
    config = load(tmp_path, "rules: [{id: r, condition: 'the sign says ${HOOK_KEY}'}]\nredis: 'redis://:${HOOK_KEY}@h'\nhost: localhost")
    assert config.rules[0].condition == "the sign says ${HOOK_KEY}"
    assert config.redis == "redis://:h00k@h"

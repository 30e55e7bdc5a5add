"""A model folder in Hugging Face layout that nobody taught carriers, in the whole system: RTSP cameras, GStreamer, Ray, Redis, HTTP."""

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from killing import Running, until
from PIL import Image
from real_configurations import real
from small_models import F32, KINDS, LLAVA, Shape, backbone, save
from typer.testing import CliRunner

from actors.cli import app
from actors.demo import free_port, simulated_site
from model.backbone import Backbone
from model.spec import ModelSpec
from model.training_free import untaught
from pipeline.core import CarrierKey
from simulator.visits import CAMERAS
from storage import keys
from storage.redis_server import PrivateRedis
from storage.store import CarrierStore


def whole(test: Callable[..., None]) -> Callable[..., None]:
    for mark in (pytest.mark.ray, pytest.mark.gst, pytest.mark.redis, pytest.mark.timeout(900)):
        test = mark(test)
    return test


PATIENCE_S = 240.0
KEEP_S = 180.0  # of carriers, which are large in this mode; their pictures stay
QUESTION = "Was there a red car?"
RULE = {"id": "anybody", "condition": "a person is there", "threshold": 0.0, "cooldown_s": 0}


def published(folder: Path, kind: str) -> Backbone:
    """A small model of as many visual tokens a frame as the published ones have, in the files that those come in."""
    save(backbone(Shape(kind=kind, grid=28, tied=False), F32), folder)
    (folder / "longwatch.json").unlink()
    return Backbone.load(folder)


def kept_bytes(spec: ModelSpec) -> float:
    """What a frame takes as integers of 8 bits: of every 128 numbers of a head at most, and of the mean, a scale of 16 bits."""
    head = spec.head_dim + 2 * -(-spec.head_dim // 128)
    row = 2 * spec.kv_heads * head
    return spec.layers * (row + spec.patches * (row + 2)) + spec.hidden * (1 + 2 / min(spec.hidden, 128))


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [
        ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 1.26),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 4.26),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 4.26),
        ("Qwen/Qwen3-VL-8B-Instruct", 4.20),
    ],
)
def test_a_frame_takes_what_the_documents_say(name: str, megabytes: float) -> None:
    b = real(name)
    assert round(kept_bytes(Backbone(b.net, b.tokenizer, untaught(b)).spec) / 1e6, 2) == megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A system that is up, and what it must be doing."""

    running: Running
    http: httpx.Client
    model: Backbone
    store: CarrierStore
    raw: Any  # the same Redis without Longwatch
    folder: Path
    log: Path

    def remembered(self, camera: str) -> dict[str, Any]:
        """What `longwatch memory` shows of a camera."""
        told = self.http.get("/v1/memory").raise_for_status().json()["memory"]
        return next((each for each in told if each["camera"] == camera), {"carriers": 0})

    def ask(self, **more: Any) -> dict[str, Any]:
        """The answer, which has words and says the mode."""
        answer: dict[str, Any] = self.http.post("/v1/ask", json={"question": QUESTION, **more}).raise_for_status().json()
        assert answer["answer"].strip() and answer["mode"] == "training-free"
        assert answer["model"] == self.model.spec.fingerprint
        return answer

    def say(self, *arguments: str) -> str:
        """What a command of `longwatch` prints, in one line."""
        return " ".join(CliRunner().invoke(app, [*arguments], env={"COLUMNS": "300"}).output.split())


def reached(condition: Any) -> bool:
    return until(condition, PATIENCE_S) < PATIENCE_S


@pytest.fixture
def site(kind: str, tmp_path: Path) -> Iterator[Site]:
    folder, config, log, port = tmp_path / "published", tmp_path / "longwatch.yaml", tmp_path / "log", free_port(0)
    model = published(folder, kind)
    with simulated_site(930_000) as served, PrivateRedis(tmp_path / "redis") as server:
        cameras = {name: {"uri": uri, "still_s": 0} for name, uri in served["cameras"].items()}
        told = {"cameras": cameras, "rules": [RULE], "port": port, "redis": server.url, "memory": {"keep_hours": KEEP_S / 3600}}
        config.write_text(json.dumps(told))
        store, raw = CarrierStore(server.url, model.spec.fingerprint), redis.Redis.from_url(server.url)
        running = Running(config, log, "--model", str(folder), environment={"COLUMNS": "300"})
        with running, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            site = Site(running=running, http=http, model=model, store=store, raw=raw, folder=folder, log=log)
            assert reached(lambda: running.ended is not None or is_ready(http)), log.read_text()
            assert running.ended is None, log.read_text()
            yield site
        store.close()


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/health/ready").is_success
    except httpx.TransportError:
        return False


@whole
@pytest.mark.parametrize("kind", KINDS if os.environ.get("LONGWATCH_EVERY_FAMILY") else [LLAVA])
def test_a_model_that_nobody_taught_watches_answers_and_goes_on_after_a_kill(site: Site) -> None:
    it_says_how_it_is_used(site)
    budget = site.model.habits.budget
    assert reached(lambda: sum(site.remembered(camera)["carriers"] for camera in CAMERAS) > budget)
    answer = site.ask()
    assert answer["carriers"] == budget and answer["evidence"]
    for moment in answer["evidence"]:
        shown = site.http.get(moment["picture"]).raise_for_status()
        assert Image.open(io.BytesIO(shown.content)).size == (640, 360)
    assert reached(lambda: site.http.get("/v1/alerts").raise_for_status().json()["alerts"])
    assert reached(lambda: CliRunner().invoke(app, ["status", "--once", "--url", str(site.http.base_url)]).exit_code == 0)
    frames_are_kept_whole_and_take_what_is_said(site)
    it_recalls_after_a_kill(site)
    carriers_go_sooner_than_their_pictures(site)
    assert not set(site.store.misses) - {"missing"}


def it_says_how_it_is_used(site: Site) -> None:
    assert site.http.get("/v1/health/ready").json() == {"status": "ready", "mode": "training-free"}
    assert reached(lambda: f"{site.folder} was never taught to read carriers: training-free mode" in " ".join(site.log.read_text().split()))
    assert "mode training-free: the model was not taught" in site.say("doctor", "--model", str(site.folder))
    assert reached(lambda: site.remembered("yard")["carriers"] >= 2)
    assert ", training-free)" in site.say("ask", QUESTION, "--url", str(site.http.base_url))


def frames_are_kept_whole_and_take_what_is_said(site: Site) -> None:
    """All visual tokens of each, in every layer, and near nothing beside."""
    spec, times = site.model.spec, site.store.times("yard")[-4:]
    kept = [each for each in site.store.get([CarrierKey(camera_id="yard", at_ms=at_ms) for at_ms in times]) if each and each.patches]
    assert len(kept) == len(times)
    assert {each.patches.places.shape for each in kept if each.patches} == {(spec.layers, spec.tokens_per_frame)}
    assert site.model.habits.patches == spec.tokens_per_frame == {LLAVA: 196}.get(site.model.net.config.model_type, 180)
    sizes = [site.raw.strlen(name) for name in site.raw.scan_iter(f"lw:{{yard}}:kv:{spec.fingerprint}:*")]
    assert kept_bytes(spec) < max(sizes) < kept_bytes(spec) + 300  # names, times and shapes


def it_recalls_after_a_kill(site: Site) -> None:
    """The first frame after a kill sees frames from before it: what it leaves in the live memory says so. Only where nothing
    moves, those may be gone by then.
    """
    site.running.kill("prefill")
    at_ms = time.time_ns() // 1_000_000
    live: dict[str, list[int]] = {}

    def are_seen_again() -> bool:
        for camera in set(CAMERAS) - set(live):
            times = [each.key.at_ms for each in site.store.live(camera)]
            if times and times[-1] > at_ms:
                live[camera] = times
        return len(live) == len(CAMERAS)

    assert reached(are_seen_again)
    assert any(times[0] < at_ms for times in live.values())
    assert all(len(times) <= site.model.habits.live for times in live.values())
    assert 2 <= site.ask()["carriers"] <= site.model.habits.budget


def carriers_go_sooner_than_their_pictures(site: Site) -> None:
    """Then they are neither counted nor looked at, and a question about that time is told so."""
    times = site.store.times("yard")[:3]
    for at_ms in times:
        name = keys.carrier(CarrierKey(camera_id="yard", at_ms=at_ms), site.model.spec.fingerprint)
        assert 0 < site.raw.pttl(name) <= KEEP_S * 1000 < site.raw.pttl(keys.picture("yard", at_ms))
        site.raw.pexpire(name, 1)  # as if that time had passed
    assert reached(lambda: site.store.times("yard")[0] > times[-1])
    span = {"cameras": ["yard"], "since": times[0] / 1000, "until": times[-1] / 1000}
    reply = site.http.post("/v1/ask", json={"question": QUESTION, **span})
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "NoMemory")
    assert site.http.get(f"/v1/frames/yard/{times[0]}.jpg").is_success
    assert site.ask(cameras=["yard"])["evidence"]

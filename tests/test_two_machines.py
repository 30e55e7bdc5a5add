"""Two machines of one Ray cluster, of which one dies whole while cameras are watched and people ask."""

import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from killing import HUNG_S, TITLES, Ledger, People, Running, Session, ask, until
from own_time import OwnTime

from actors.cluster import ENVIRONMENT
from actors.demo import free_port, simulated_site
from simulator.visits import CAMERAS
from storage.redis_server import PrivateRedis

pytestmark = [pytest.mark.ray, pytest.mark.gst, pytest.mark.redis, pytest.mark.timeout(900)]

SEED = 930_000
PATIENCE_S = 180.0
HEALED_S = {1: 20.0, 2: 10.0}  # on machines of one's own, by how many there are of each: where there are two, one goes on
RAY = ["--num-cpus", "2", "--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", "0"]
RAY += ["--object-store-memory", "100000000", "--disable-usage-stats", "--block"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """A system that is up on two of them, and its memory."""

    first: Session
    second: Session
    each: int  # prefillers, and replicas that decode
    url: str
    ledger: Ledger
    own: OwnTime


def ray_start(log: Path, environment: dict[str, str], roles: list[str], *more: str) -> Session:
    labels = ",".join(f"longwatch/{role}=true" for role in roles)
    return Session([sys.executable, "-m", "ray.scripts.scripts", "start", "--labels", labels, *more, *RAY], log, environment)


def await_started(log: Path) -> None:
    assert until(lambda: "Ray runtime started" in log.read_text(), PATIENCE_S) < PATIENCE_S, log.read_text()


@pytest.fixture(params=HEALED_S)
def machines(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    each: int = request.param
    token, head, port = tmp_path / "token", f"127.0.0.1:{free_port(0)}", free_port(0)
    token.write_text(secrets.token_hex(32))
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    of_head = ["--head", "--node-ip-address", "127.0.0.1", "--port", head.partition(":")[2], "--include-dashboard", "false"]
    of_head += ["--ray-client-server-port", str(free_port(0)), "--temp-dir", str(tmp_path_factory.mktemp("r"))]
    with (
        OwnTime() as own,
        simulated_site(SEED) as served,
        PrivateRedis(tmp_path / "redis") as server,
        ray_start(tmp_path / "first", environment, ["ingest", "prefill", "decode"][: 1 if each == 1 else 3], *of_head) as first,
    ):
        await_started(tmp_path / "first")
        joining = ["--address", head, "--node-ip-address", "127.0.0.2"]
        cameras = {name: {"uri": uri, "still_s": 0} for name, uri in served["cameras"].items()}
        config, log = tmp_path / "longwatch.yaml", tmp_path / "log"
        planes = {"prefill": {"actors": each}, "decode": {"min_replicas": each, "max_replicas": each}}
        config.write_text(json.dumps({"cameras": cameras, "port": port, "redis": server.url, **planes}))
        with ExitStack() as stack:
            second = stack.enter_context(ray_start(tmp_path / "second", environment, ["prefill", "decode"], *joining))
            await_started(tmp_path / "second")
            running = stack.enter_context(Running(config, log, "--ray", head, environment=environment))
            url = f"http://127.0.0.1:{port}"
            up_s = until(lambda: running.ended is not None or ask(url).answered, 300)
            assert up_s < 300 and running.ended is None, log.read_text()
            model = httpx.post(f"{url}/v1/ask", json={"question": "Is there a car now?"}, timeout=HUNG_S).json()["model"]
            ledger = Ledger(server.url, model, list(CAMERAS))
            assert until(lambda: all(len(times) >= 5 for times in ledger.look().values()), PATIENCE_S) < PATIENCE_S
            yield Machines(first=first, second=second, each=each, url=url, ledger=ledger, own=own)
            ledger.close()
        first.kill_all()  # asked to end, Ray would wait for half a minute


def test_planes_run_where_the_labels_say_and_elsewhere_when_that_machine_dies(machines: Machines) -> None:
    first, second = machines.first, machines.second
    assert first.processes(TITLES["ingest"]) and not second.processes(TITLES["ingest"])
    for name in ("prefill", "decode"):
        assert len(first.processes(TITLES[name])) == machines.each - 1 and len(second.processes(TITLES[name])) == 1, name
    if machines.each == 1:  # else they may be on either
        assert second.processes(TITLES["rules"]) and not first.processes(TITLES["rules"])
    with People(machines.url, 2) as people:
        assert until(lambda: len(people.asked) > 4, PATIENCE_S) < PATIENCE_S
        second.kill_all()
        at_s = time.time()
        assert until(lambda: machines.ledger.newest_s() > at_s, PATIENCE_S) < PATIENCE_S
        seen_s = machines.own.between(at_s, time.time())
        assert until(lambda: people.answered_since(at_s), PATIENCE_S) < PATIENCE_S
        answered_s = machines.own.between(at_s, time.time())
        assert until(lambda: first.processes(TITLES["rules"]), PATIENCE_S) < PATIENCE_S
        for name in ("prefill", "decode"):
            assert until(lambda name=name: len(first.processes(TITLES[name])) == machines.each, PATIENCE_S) < PATIENCE_S, name
        machines.ledger.look()
    print(
        f"{machines.each} of each: seen again {seen_s:.1f} s of our own after, answered {answered_s:.1f} s; {len(people.asked)} questions"
    )
    assert machines.ledger.whole()
    assert not [asked for asked in people.asked if not asked.said or asked.status is None]
    assert max(asked.took_s for asked in people.asked) < HUNG_S
    assert max(seen_s, answered_s) < HEALED_S[machines.each]

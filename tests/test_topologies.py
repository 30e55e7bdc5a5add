"""The memory on a Cluster, behind Sentinels, over TLS and with a user for each role."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from carriers import FINGERPRINT, HEAD, assert_same, carrier, eventually, key, telling, write
from conftest import lacking
from faults import port_of

from pipeline.core import Alert, Camera, CameraPhase, CameraStatus, Gap, StoreUnavailable, TimeRange
from storage import keys
from storage.redis_server import PrivateRedis
from storage.registry import Registry
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

CAMERAS = ("dock", "gate", "roof", "lane")  # in slots of every node
PASSWORD = "topology"
SPAN = TimeRange(start_ms=0, end_ms=5000)
ACL = Path(__file__).parent.parent / "deploy" / "redis-users.acl"
ALERT = Alert(id="a", rule_id="r", condition="c", camera_id="dock", at_ms=1, probability=0.5, evidence=())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def everything_works(store: CarrierStore, registry: Registry) -> None:
    """Every call of the memory and of the registry, once, with what it should do."""
    for camera_id in CAMERAS:
        claim = store.claim(camera_id)
        store.put([telling(at_ms, camera_id, claim=claim) for at_ms in (1000, 2000, 3000)])
        store.note_loss(Gap(camera_id=camera_id, span=TimeRange(start_ms=1, end_ms=2), reason="why"))
    every = [key(at_ms, camera_id) for at_ms in (1000, 3000) for camera_id in CAMERAS]
    for wanted, got in zip(every, store.get(every), strict=True):
        assert_same(got, carrier(wanted.at_ms, wanted.camera_id))
    assert store.delete("gate", TimeRange(start_ms=2000, end_ms=2000)) == 2
    assert [list(at_ms) for at_ms, _ in store.vectors("gate", SPAN)] == [[1000, 3000]]
    assert store.times("gate") == [1000, 3000] and [one.key.at_ms for one in store.live("roof")] == [3000]
    store.tidy("gate")
    assert (store.kept("gate").carriers, store.kept("gate").pictures, len(store.losses("gate"))) == (2, 2, 1)
    assert store.newest_picture("lane") == (3000, b"\xff\xd8 3000") and store.forget("dock") == 6
    assert store.span("dock") is None and not store.misses
    for camera_id in CAMERAS:
        registry.add_camera(Camera(id=camera_id, uri="rtsp://x"))
    registry.report([CameraStatus(camera_id=camera_id, phase=CameraPhase.LIVE) for camera_id in CAMERAS])
    registry.add_alert(ALERT)
    assert len(registry.statuses()) == len(registry.cameras()) == 4 and registry.forget("dock") == 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[PrivateRedis]]:
    with ExitStack() as stack:
        nodes = []
        for n in range(3):
            more = ["cluster-enabled yes", f"cluster-port {free_port()}", "cluster-node-timeout 15000"]
            nodes.append(stack.enter_context(PrivateRedis(tmp_path / str(n), more=more)))
        clients: list[Any] = [stack.enter_context(redis.Redis.from_url(node.url)) for node in nodes]
        for n, client in enumerate(clients):
            client.config_set("requirepass", PASSWORD)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * 16384 // 3, (n + 1) * 16384 // 3 - 1)
            if n:
                bus = clients[0].config_get("cluster-port")["cluster-port"]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", port_of(nodes[0]), bus)
        eventually(lambda: all(b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO") for client in clients))
        eventually(lambda: all(len(client.execute_command("CLUSTER", "SLOTS")) == 3 for client in clients))
        yield nodes


def test_everything_works_on_a_cluster_and_a_camera_is_on_one_node(cluster: list[PrivateRedis]) -> None:
    url = f"redis+cluster://:{PASSWORD}@127.0.0.1:{port_of(cluster[1])}"
    store, registry = CarrierStore(url, FINGERPRINT, head=HEAD), Registry(url)
    everything_works(store, registry)
    slots = set()
    for node in cluster:
        with redis.Redis(port=port_of(node), password=PASSWORD) as client:
            slots.add(frozenset(name.split(b"}")[0] for name in client.keys("lw:{*")))
    assert sum(map(len, slots)) == len(frozenset[bytes]().union(*slots)) == 4 and len(slots) == 3  # three cameras and the site
    store.close()
    registry.close()


def test_a_camera_on_a_lost_node_is_unavailable_and_the_others_are_not(cluster: list[PrivateRedis]) -> None:
    store = CarrierStore(f"redis+cluster://:{PASSWORD}@127.0.0.1:{port_of(cluster[0])}", FINGERPRINT, timeout_s=5)
    for node in cluster:
        with redis.Redis(port=port_of(node), password=PASSWORD) as client:
            client.config_set("cluster-require-full-coverage", "no")
    with redis.Redis(port=port_of(cluster[0]), password=PASSWORD) as client:
        at = {camera_id: client.execute_command("CLUSTER", "KEYSLOT", keys.pictures(camera_id)) * 3 // 16384 for camera_id in CAMERAS}
    assert len(set(at.values())) > 1
    cluster[at["dock"]].stop()
    with pytest.raises(StoreUnavailable):
        store.put([write(1000)])
    other = next(camera_id for camera_id in CAMERAS if at[camera_id] != at["dock"])
    store.put([write(1000, other)])
    assert store.times(other) == [1000]
    store.close()


def test_a_fail_over_is_followed_and_what_was_replicated_is_there(tmp_path: Path) -> None:
    with ExitStack() as stack:
        master, replica = (stack.enter_context(PrivateRedis(tmp_path / name)) for name in ("master", "replica"))
        for server in (master, replica):
            with redis.Redis.from_url(server.url) as client:
                client.config_set("requirepass", PASSWORD)
                client.config_set("masterauth", PASSWORD)
        second = stack.enter_context(redis.Redis(port=port_of(replica), password=PASSWORD))
        second.execute_command("REPLICAOF", "127.0.0.1", port_of(master))
        eventually(lambda: second.info("replication")["master_link_status"] == "up")
        store = CarrierStore(f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel(stack, tmp_path, master)}/memory/0", FINGERPRINT)
        eventually(lambda: store.put([write(1000)]) is None)
        eventually(lambda: second.dbsize() == 5)
        master.stop()
        eventually(lambda: store.put([write(2000)]) is None, 120)  # a Sentinel that was held up acts half a minute later
        assert store.times("dock") == [1000, 2000]
        store.close()


def sentinel(stack: ExitStack, folder: Path, master: PrivateRedis) -> int:
    port, place = free_port(), "sentinel"
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {folder}",
        f"sentinel monitor memory 127.0.0.1 {port_of(master)} 1",
        f"sentinel auth-pass memory {PASSWORD}",
        "sentinel down-after-milliseconds memory 1000",
        "sentinel failover-timeout memory 5000",
    ]
    (folder / place).write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(["redis-server", str(folder / place), "--sentinel"], stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return port


def test_tls_lets_only_the_server_of_its_authority_be_the_memory(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        lacking("openssl")
    authority, certificate, secret = (str(tmp_path / name) for name in ("ca.crt", "server.crt", "server.key"))
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj"]
    subprocess.run([*make, "/CN=authority", "-keyout", str(tmp_path / "ca.key"), "-out", authority], check=True, capture_output=True)
    signed = ["-CA", authority, "-CAkey", str(tmp_path / "ca.key"), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*make, "/CN=localhost", *signed, "-keyout", secret, "-out", certificate], check=True, capture_output=True)
    port = free_port()
    tls = [f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {secret}", f"tls-ca-cert-file {authority}"]
    with PrivateRedis(tmp_path / "redis", more=[*tls, "tls-auth-clients no"]) as server:
        url = server.url.replace("redis://", "rediss://").replace(f":{port_of(server)}/", f":{port}/")
        trusting = f"{url}?ssl_ca_certs={authority}"
        store, registry = CarrierStore(trusting, FINGERPRINT, head=HEAD), Registry(trusting)
        everything_works(store, registry)
        stranger = CarrierStore(url, FINGERPRINT)  # trusts the machine's authorities alone
        with pytest.raises(StoreUnavailable, match="(?i)certificate"):
            stranger.ping()
        for opened in (store, registry, stranger):
            opened.close()


@pytest.fixture
def users(tmp_path: Path) -> Iterator[PrivateRedis]:
    """A server with the users that we ship, their passwords as they stand there."""
    with PrivateRedis(tmp_path, more=["databases 2"]) as server, redis.Redis.from_url(server.url) as admin:
        for line in ACL.read_text().splitlines():
            _, user, *rules = line.split(" ", 2)
            if user != "default":
                admin.execute_command("ACL", "SETUSER", user, *split_rules(rules[0]))
        seed = CarrierStore(server.url, FINGERPRINT, head=HEAD)
        everything_works(seed, Registry(server.url))
        seed.close()
        yield server


def split_rules(text: str) -> list[str]:
    """Words, but a selector in brackets is one."""
    words: list[str] = []
    for word in text.split():
        if words and words[-1].startswith("(") and not words[-1].endswith(")"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


MEMORY_READS = {
    "times": lambda s, r: s.times("gate"),
    "get": lambda s, r: s.get([key(1000, "gate")]),
    "vectors": lambda s, r: list(s.vectors("gate", SPAN)),
    "picture": lambda s, r: s.newest_picture("gate"),
    "losses": lambda s, r: s.losses("gate"),
    "kept": lambda s, r: s.kept("gate"),
    "ping": lambda s, r: s.ping(),
}
MEMORY_WRITES = {
    "put": lambda s, r: s.put([telling(9001, "gate")]),
    "claim and put": lambda s, r: s.put([telling(9000, "gate", claim=s.claim("gate"))]),
    "loss": lambda s, r: s.note_loss(Gap(camera_id="gate", span=SPAN, reason="why")),
    "tidy": lambda s, r: s.tidy("gate"),
    "live": lambda s, r: s.live("gate"),
}
DELETES = {"delete": lambda s, r: s.delete("lane", TimeRange(start_ms=0, end_ms=1500)), "forget": lambda s, r: s.forget("roof")}
CAMERAS_READ = {"cameras": lambda s, r: r.cameras()}
EVER = {"ever": lambda s, r: r.ever()}
REPORT = {
    "report": lambda s, r: r.report([CameraStatus(camera_id="gate", phase=CameraPhase.LIVE)]),
    "term": lambda s, r: r.term(),
}
SITE = {
    "add camera": lambda s, r: r.add_camera(Camera(id="new", uri="rtsp://x")),
    "remove camera": lambda s, r: r.remove_camera("new"),
    "rules": lambda s, r: r.rules(),
    "alerts": lambda s, r: r.alerts(),
    "alert": lambda s, r: r.add_alert(ALERT),
    "forget alerts": lambda s, r: r.forget("dock"),
    "statuses": lambda s, r: r.statuses(),
}
ROLES: dict[str, dict[str, Any]] = {
    "ingest": CAMERAS_READ | REPORT,
    "prefill": MEMORY_READS | MEMORY_WRITES | CAMERAS_READ | EVER,
    "decode": MEMORY_READS | CAMERAS_READ | {"live": MEMORY_WRITES["live"]},
    "api": MEMORY_READS | DELETES | CAMERAS_READ | EVER | SITE | {name: MEMORY_WRITES[name] for name in ("live", "tidy")},
}
CALLS: dict[str, Any] = MEMORY_READS | MEMORY_WRITES | DELETES | CAMERAS_READ | EVER | REPORT | SITE


@pytest.mark.parametrize("role", ROLES)
def test_a_role_does_its_part_and_nothing_else(users: PrivateRedis, role: str) -> None:
    url = f"redis://{role}:{role.upper()}_PASSWORD@127.0.0.1:{port_of(users)}/0"
    store, registry = CarrierStore(url, FINGERPRINT, head=HEAD, keep_bytes=1, cache_bytes=10_000), Registry(url)
    for name, call in CALLS.items():
        if name in ROLES[role] or name == "ping":
            call(store, registry)
        else:
            with pytest.raises(StoreUnavailable, match="(?i)permission"):
                call(store, registry)
                pytest.fail(f"{role} may {name}")
    client: Any = redis.Redis.from_url(url)
    for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "EVAL 1 0", "ACL LIST", "MONITOR", "DUMP lw:{gate}:lost"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())
    for opened in (store, registry, client):
        opened.close()


def test_an_eviction_takes_carriers_first_and_is_a_miss_and_never_a_rule(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, max_bytes=4_000_000) as server:
        store, registry = CarrierStore(server.url, FINGERPRINT), Registry(server.url)
        registry.add_camera(Camera(id="dock", uri="rtsp://x"))
        for start in range(0, 6000, 50):
            store.put([write(at_ms) for at_ms in range(start, start + 50)])
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 0)  # no more, while we look
            left = sorted(at_ms for name in client.scan_iter(match="lw:{dock}:kv:*") if (at_ms := keys.moment(name)))
        times = store.times("dock")
        assert 100 < len(left) < 5000 and set(left) <= set(times) and times[-1] == 5999
        found = store.get([key(at_ms) for at_ms in times])
        assert [carrier.key.at_ms for carrier in found if carrier] == left and store.misses["missing"] == len(times) - len(left)
        store.tidy("dock")
        assert store.times("dock") == left and [camera.id for camera in registry.cameras()] == ["dock"]
        store.close()
        registry.close()


def test_the_registry_has_its_own_database(users: PrivateRedis) -> None:
    apart = users.url.removesuffix("/0") + "/1"
    registry = Registry(apart)
    registry.add_camera(Camera(id="dock", uri="rtsp://x"))
    with redis.Redis.from_url(users.url) as client, redis.Redis.from_url(apart) as other:
        client.flushdb()
        assert list(other.scan_iter()) == [keys.CAMERAS.encode()]
    registry.close()

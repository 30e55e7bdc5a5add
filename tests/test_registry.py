from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.core import Alert, Camera, CameraPhase, CameraStatus, Evidence, Rule, StoreUnavailable, TimeRange
from storage import keys
from storage.registry import BadEntry, Registry

pytestmark = pytest.mark.redis

CAMERA = Camera(id="dock", uri="rtsp://admin:hunter2@10.0.0.7/stream", fps=2)
RULE = Rule(id="r1", condition="a truck is at the dock", cameras=("dock",), threshold=0.7, cooldown_s=5, webhook="https://h/?token=hunter2")
STATUS = CameraStatus(
    camera_id="dock",
    phase=CameraPhase.LOST,
    frames=3,
    dropped=1,
    still=4,
    share=0.5,
    room=0.25,
    reconnects=2,
    last_frame_ms=17,
    error="no route",
)
EVIDENCE = Evidence(camera_id="dock", at_ms=16, span=TimeRange(start_ms=15, end_ms=17), score=0.25)
ALERT = Alert(id="a1", rule_id="r1", condition=RULE.condition, camera_id="dock", at_ms=17, probability=0.9, evidence=(EVIDENCE,))


@pytest.fixture
def registry(redis_url: str) -> Iterator[Registry]:
    opened = Registry(redis_url)
    yield opened
    opened.close()


def test_cameras(registry: Registry) -> None:
    assert registry.cameras() == []
    registry.add_camera(replace(CAMERA, id="yard"))
    registry.add_camera(replace(CAMERA, fps=1))
    registry.add_camera(CAMERA)
    assert registry.cameras() == [CAMERA, replace(CAMERA, id="yard")]
    assert registry.remove_camera("yard") and not registry.remove_camera("yard")
    assert registry.cameras() == [CAMERA]


def test_rules(registry: Registry) -> None:
    plain = Rule(id="r0", condition="the gate is open")
    for rule in (RULE, plain, RULE):
        registry.add_rule(rule)
    assert registry.rules() == [plain, RULE]
    assert registry.remove_rule("r1") and not registry.remove_rule("r1")
    assert registry.rules() == [plain]


def test_statuses_are_the_latest_and_expire(registry: Registry, raw: Any) -> None:
    fresh = CameraStatus(camera_id="yard", phase=CameraPhase.CONNECTING)
    registry.report([])
    registry.report([replace(STATUS, frames=1), fresh])
    registry.report([STATUS], ttl_s=7)
    assert registry.statuses() == {"dock": STATUS, "yard": fresh}
    assert 5 < raw.ttl(keys.status("dock")) <= 7 < raw.ttl(keys.status("yard")) <= 10
    raw.pexpire(keys.status("dock"), 0)
    assert registry.statuses() == {"yard": fresh}


def test_alerts_are_newest_first_bounded_and_kept_once(registry: Registry) -> None:
    assert registry.alerts() == []
    alerts = [replace(ALERT, id=f"a{n}", at_ms=n) for n in range(1010)]
    for alert in [*alerts, alerts[-1]]:
        registry.add_alert(alert)
    newest = alerts[::-1]
    assert registry.alerts() == newest[:100]
    assert registry.alerts(limit=5000) == newest[:1000]
    assert registry.alerts(limit=0) == []


def test_alerts_of_a_forgotten_camera_are_deleted_and_no_others(registry: Registry) -> None:
    for camera_id in ("dock", "yard"):
        registry.add_alert(replace(ALERT, id=camera_id, camera_id=camera_id, evidence=()))
    assert registry.forget("dock") == 1
    assert registry.forget("dock") == 0
    assert [alert.camera_id for alert in registry.alerts()] == ["yard"]


def test_an_alert_that_was_judged_while_its_camera_was_forgotten_is_not_kept(registry: Registry) -> None:
    registry.add_camera(CAMERA)
    registry.add_alert_of_watched(replace(ALERT, id="before", at_ms=1, evidence=()))
    registry.add_alert_of_watched(ALERT)
    assert [alert.id for alert in registry.alerts()] == [ALERT.id, "before"]
    registry.remove_camera("dock")
    registry.forget("dock")
    registry.add_alert_of_watched(ALERT)
    assert registry.alerts() == []


@pytest.mark.parametrize(("when", "left"), [((0, 14), 2), ((16, 16), 0), ((15, 15), 1), ((18, 99), 2)])
def test_alerts_that_tell_or_show_a_deleted_time_go(registry: Registry, when: tuple[int, int], left: int) -> None:
    registry.add_alert(ALERT)  # at 17, shows 15 to 17
    registry.add_alert(replace(ALERT, id="a2", at_ms=16, evidence=()))
    registry.report([STATUS])
    registry.forget("dock", TimeRange(start_ms=when[0], end_ms=when[1]))
    assert len(registry.alerts()) == left and registry.statuses() == {"dock": STATUS}


def test_a_forgotten_camera_leaves_no_key(registry: Registry, raw: Any) -> None:
    registry.add_camera(CAMERA)
    registry.report([STATUS, replace(STATUS, camera_id="yard")])
    registry.add_alert(ALERT)
    assert registry.ever() == ["dock", "yard"]
    registry.remove_camera("dock")
    registry.forget("dock")
    assert registry.ever() == ["yard"]
    assert set(raw.scan_iter()) == {keys.REPORTING.encode(), keys.status("yard").encode()}


def test_desired_state_never_expires(registry: Registry, raw: Any) -> None:
    registry.add_camera(CAMERA)
    registry.add_rule(RULE)
    registry.add_alert(ALERT)
    assert [raw.ttl(name) for name in (keys.CAMERAS, keys.RULES, keys.ALERTS)] == [-1, -1, -1]


def broken(value: Any, **fields: Any) -> Any:
    """A copy with fields that no type checker would let through."""
    return replace(value, **fields)


@pytest.mark.parametrize(
    "add",
    [
        lambda registry: registry.add_camera(broken(CAMERA, uri="")),
        lambda registry: registry.add_camera(broken(CAMERA, uri=b"rtsp://u:hunter2@x")),
        lambda registry: registry.add_rule(broken(RULE, condition=" ")),
        lambda registry: registry.add_rule(broken(RULE, id="")),
        lambda registry: registry.add_rule(broken(RULE, threshold="0.5")),
        lambda registry: registry.add_rule(broken(RULE, threshold=1.1)),
        lambda registry: registry.add_rule(broken(RULE, threshold=float("nan"))),
        lambda registry: registry.add_rule(broken(RULE, cooldown_s=-1)),
        lambda registry: registry.add_rule(broken(RULE, cameras=["dock"])),
        lambda registry: registry.add_rule(broken(RULE, cameras=(1,))),
        lambda registry: registry.report([STATUS, broken(STATUS, frames=True)]),
        lambda registry: registry.report([broken(STATUS, phase="asleep")]),
        lambda registry: registry.add_alert(broken(ALERT, probability=float("inf"))),
        lambda registry: registry.add_alert(broken(ALERT, at_ms=1.5)),
        lambda registry: registry.add_alert(broken(ALERT, evidence=("hunter2",))),
    ],
)
def test_what_is_malformed_is_refused_by_name_and_kept_out(registry: Registry, raw: Any, add: Callable[[Registry], None]) -> None:
    with pytest.raises(BadEntry) as caught:
        add(registry)
    error = caught.value
    assert "hunter2" not in str(error) and (error.__cause__ is None and error.__suppress_context__)
    assert raw.dbsize() == 0


def test_what_is_found_malformed_is_left_out_and_counted(registry: Registry, raw: Any) -> None:
    registry.add_camera(CAMERA)
    registry.add_rule(RULE)
    registry.report([STATUS, replace(STATUS, camera_id="yard")])
    registry.add_alert(ALERT)
    odd = ["", "{", "[]", "null", "{}", '{"id": "x"}', '{"id": "x", "uri": 1, "fps": 1}', '{"id": "X", "uri": "x", "fps": 1}', b"\xff"]
    for n, entry in enumerate(odd):
        raw.hset(keys.CAMERAS, f"x{n}", entry)
        raw.hset(keys.RULES, f"x{n}", entry)
        raw.zadd(keys.ALERTS, {entry: n})
    raw.set(keys.status("yard"), '{"phase": "asleep"}')
    assert (registry.cameras(), registry.rules(), registry.alerts()) == ([CAMERA], [RULE], [ALERT])
    assert registry.statuses() == {"dock": STATUS}
    assert registry.skipped == {"camera": len(odd), "rule": len(odd), "alert": len(odd), "status": 1}


def test_secrets_are_in_no_repr() -> None:
    assert "hunter2" not in repr(CAMERA) + repr(RULE)


def test_an_unreachable_redis_is_unavailable() -> None:
    registry = Registry("redis://:hunter2@127.0.0.1:1/0", timeout_s=0.2)
    for call in (registry.cameras, registry.rules, registry.statuses, registry.alerts, lambda: registry.add_camera(CAMERA)):
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert "hunter2" not in repr(caught.value) + repr(caught.value.__cause__)
    registry.close()

"""Every route of the analyst API, every named error, and that no credential leaves."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from web_fakes import SECRET, T0, Site, seen

from pipeline.core import Alert, Camera, CameraPhase, CameraStatus, Rule
from web.schemas import iso, moment_ms


@pytest.fixture
def site() -> Iterator[Site]:
    yield Site()


@pytest.mark.parametrize(
    ("given", "at"),
    [("-15m", T0 - 900_000), ("-2d", T0 - 172_800_000), (12, 12_000), (12.5, 12_500), ("2023-11-14T22:13:20Z", T0)],
)
def test_times_are_read(given: object, at: int) -> None:
    assert moment_ms(given, T0) == at


@pytest.mark.parametrize("given", ["", "yesterday", "-15", "2023-11-14T22:13:20", T0, -1, float("nan"), True, [], "1" * 5000])
def test_other_times_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="time"):
        moment_ms(given, T0)


def test_cameras_are_listed_without_their_passwords(site: Site) -> None:
    gate, yard = site("GET", "/v1/streams").json()["streams"]
    assert gate["uri"] == "rtsp://***@host/1"
    assert (gate["phase"], gate["frames"], gate["last_frame"], gate["last_frame_ms"]) == ("live", 7, iso(T0), T0)
    assert gate["remembered"] == {"start": iso(T0 - 4000), "end": iso(T0)}
    assert (yard["phase"], yard["dropped"], yard["reconnects"], yard["remembered"]) == ("lost", 2, 3, None)
    assert "timed out" in yard["error"]


def test_a_camera_that_no_ingest_looks_after_is_shown_as_such(site: Site) -> None:
    site.registry.cams["dock"] = Camera(id="dock", uri=SECRET)
    dock = site("GET", "/v1/streams").json()["streams"][-1]
    assert (dock["id"], dock["phase"]) == ("dock", "unwatched")
    assert "ingest" in dock["error"]


def test_a_camera_that_would_not_fit_is_refused_with_the_figure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    status = CameraStatus(camera_id="gate", phase=CameraPhase.LIVE, share=0.5, room=3.25)
    monkeypatch.setattr(site.registry, "statuses", lambda: {"gate": status})
    assert site("GET", "/v1/streams").json()["streams"][0]["share"] == 0.5
    refused = site("POST", "/v1/streams", json={"id": "dock", "uri": SECRET, "fps": 4})
    assert refused.status_code == 409 and refused.json()["error"]["type"] == "NoRoom" and "dock" not in site.registry.cams
    assert "dock wants 4 pictures a second, and the prefill plane has room for 3.2 more" in refused.json()["error"]["message"]
    assert site("POST", "/v1/streams", json={"id": "dock", "uri": SECRET, "fps": 3}).status_code == 201


def test_a_camera_is_added_once(site: Site) -> None:
    added = site("POST", "/v1/streams", json={"id": "dock", "uri": SECRET, "fps": 2})
    assert (added.status_code, added.json()["phase"]) == (201, "connecting")
    assert site.registry.cams["dock"].uri == SECRET
    assert site.fails("POST", "/v1/streams", json={"id": "dock", "uri": SECRET}) == (409, "Conflict")


@pytest.mark.parametrize(
    "uri",
    ["/etc/passwd", "file:///etc/passwd", "exec:secret", "rtsp://", "rtsp:///x", "rtsp://[secret", "rtsp://h:secret/", "rtsp://h/ secret"],
)
def test_only_cameras_on_the_network_are_added(site: Site, uri: str) -> None:
    assert site.fails("POST", "/v1/streams", json={"id": "dock", "uri": uri}) == (422, "BadCamera")
    assert "dock" not in site.registry.cams


def test_files_are_cameras_only_where_allowed() -> None:
    site = Site(allow_files=True)
    assert site("POST", "/v1/streams", json={"id": "film", "uri": "/films/street.mp4"}).status_code == 201
    assert site.fails("POST", "/v1/streams", json={"id": "other", "uri": "exec:secret"}) == (422, "BadCamera")


@pytest.mark.parametrize("sent", [{"id": "Gate", "uri": SECRET}, {"id": "g", "uri": SECRET, "pw": "secret"}, {"id": "g", "uri": [SECRET]}])
def test_what_was_sent_wrongly_is_not_repeated(site: Site, sent: dict[str, Any]) -> None:
    assert site.fails("POST", "/v1/streams", json=sent) == (422, "Invalid")


def test_a_frame_rate_out_of_range_is_refused(site: Site) -> None:
    assert site.fails("POST", "/v1/streams", json={"id": "dock", "uri": SECRET, "fps": 31}) == (422, "BadCamera")


def test_a_camera_is_removed_and_forgotten_when_asked(site: Site) -> None:
    assert site("DELETE", "/v1/streams/gate").json() == {"id": "gate", "removed": True, "forgotten": 0}
    assert site("GET", f"/v1/frames/gate/{T0}.jpg").status_code == 200
    assert site("DELETE", "/v1/streams/gate?forget=true").json() == {"id": "gate", "removed": False, "forgotten": 2}
    assert site.fails("DELETE", "/v1/streams/gate?forget=true") == (404, "UnknownCamera")


def test_pictures_say_how_long_they_may_be_kept(site: Site) -> None:
    exact = site("GET", f"/v1/frames/gate/{T0 - 4000}.jpg")
    assert (exact.headers["content-type"], exact.headers["longwatch-at-ms"]) == ("image/jpeg", str(T0 - 4000))
    assert "immutable" in exact.headers["cache-control"]
    latest = site("GET", "/v1/frames/gate/latest.jpg")
    assert (latest.headers["cache-control"], latest.headers["longwatch-at-ms"]) == ("no-store", str(T0))


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("gate/1.jpg", (404, "NoMemory")),
        ("yard/latest.jpg", (404, "NoMemory")),
        ("pier/latest.jpg", (404, "UnknownCamera")),
        ("pier/1.jpg", (404, "UnknownCamera")),
        ("gate/soon.jpg", (422, "Invalid")),
        ("gate/99999999999999.jpg", (422, "Invalid")),
        ("..%2Fgate/1.jpg", (404, "UnknownPath")),
        ("GATE/1.jpg", (422, "Invalid")),
    ],
)
def test_pictures_that_are_not_there(site: Site, path: str, error: tuple[int, str]) -> None:
    assert site.fails("GET", f"/v1/frames/{path}") == error


def test_a_rule_lives_and_its_webhook_stays_private(site: Site) -> None:
    body = {"condition": "a truck is at the gate", "cameras": ["gate"], "webhook": "https://hooks.example.com:8443/T0/secret"}
    made = site("POST", "/v1/rules", json=body)
    assert (made.status_code, made.json()["webhook_host"], made.json()["threshold"]) == (201, "hooks.example.com:8443", 0.5)
    (rule,) = site("GET", "/v1/rules").json()["rules"]
    assert rule == made.json()
    assert site.registry.ruleset[rule["id"]].webhook == body["webhook"]
    assert site.fails("POST", "/v1/rules", json=body | {"id": rule["id"]}) == (409, "Conflict")
    assert site("DELETE", f"/v1/rules/{rule['id']}").json()["removed"] is True
    assert site.fails("DELETE", f"/v1/rules/{rule['id']}") == (404, "UnknownRule")


@pytest.mark.parametrize(
    "wrong", [{"webhook": "ftp://h/secret"}, {"webhook": "secret"}, {"webhook": "http://"}, {"threshold": 1.1}, {"x": 1}]
)
def test_a_bad_rule_is_refused(site: Site, wrong: dict[str, Any]) -> None:
    assert site.fails("POST", "/v1/rules", json={"condition": "c"} | wrong) == (422, "Invalid")


def test_a_rule_for_an_unknown_camera_is_refused(site: Site) -> None:
    assert site.fails("POST", "/v1/rules", json={"condition": "c", "cameras": ["pier"]}) == (404, "UnknownCamera")


def test_alerts_come_with_their_pictures(site: Site) -> None:
    rule = Rule(id="r", condition="a truck is at the gate")
    for n in (1, 0):
        at, evidence = T0 + n, (seen("gate", T0),)
        alert = Alert(id=f"a{n}", rule_id=rule.id, condition=rule.condition, camera_id="gate", at_ms=at, probability=0.8, evidence=evidence)
        site.registry.alerted.append(alert)
    (shown,) = site("GET", "/v1/alerts?limit=1").json()["alerts"]
    assert (shown["id"], shown["camera"], shown["at"]) == ("a1", "gate", iso(T0 + 1))
    assert shown["evidence"][0]["picture"] == f"/v1/frames/gate/{T0}.jpg"
    assert site.fails("GET", "/v1/alerts?limit=0") == (422, "Invalid")


def test_health_tells_alive_from_able(site: Site) -> None:
    assert site("GET", "/v1/health/ready").json() == {"status": "ready", "mode": None}
    taught = Site(mode="training-free")
    assert taught("GET", "/v1/health/ready").json() == {"status": "ready", "mode": "training-free"}
    site.store.down = True
    assert site("GET", "/v1/health/live").status_code == 200
    response = site("GET", "/v1/health/ready")
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert response.json()["error"]["message"] == "cannot reach redis://***@redis:6379/0"
    assert site.fails("GET", "/v1/streams") == (503, "StoreUnavailable")
    assert site.fails("GET", "/v1/frames/gate/latest.jpg") == (503, "StoreUnavailable")


def test_a_process_that_answers_no_questions_says_so() -> None:
    site = Site(ask=None)
    assert site.fails("POST", "/v1/ask", json={"question": "q"}) == (503, "NotReady")
    assert site.fails("GET", "/v1/health/ready") == (503, "NotReady")


def test_paths_and_methods_that_do_not_exist(site: Site) -> None:
    assert site.fails("GET", "/v1/nothing") == (404, "UnknownPath")
    assert site.fails("PUT", "/v1/rules") == (405, "MethodNotAllowed")


def routes(site: Site) -> list[tuple[str, str]]:
    paths = site("GET", "/v1/openapi.json", headers={"Authorization": "Bearer s3"}).json()["paths"]
    example = {"{camera}": "gate", "{at_ms}": "1", "{rule}": "r"}
    for name, value in example.items():
        paths = {path.replace(name, value): methods for path, methods in paths.items()}
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_the_token_guards_every_route_but_liveness() -> None:
    site = Site(token="s3")
    guarded = [*routes(site), ("GET", "/v1/openapi.json"), ("GET", "/v1/nothing")]
    assert len(guarded) >= 14
    for method, path in guarded:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3"}, {"Authorization": "Bearer s\xe9"}):
            answer = site(method, path, headers={k: v.encode("latin-1") for k, v in headers.items()}, json={})
            assert (answer.status_code == 200) == (path == "/v1/health/live"), (method, path)
    assert site.fails("GET", "/v1/streams") == (401, "Unauthorized")
    assert site("GET", "/v1/streams", headers={"Authorization": "Bearer s3"}).status_code == 200
    assert site("GET", "/").status_code == 200


def test_other_sites_cannot_use_the_api_through_a_browser(site: Site) -> None:
    assert site.fails("GET", "/v1/streams", headers={"Sec-Fetch-Site": "cross-site"}) == (403, "Forbidden")
    form = {"Content-Type": "text/plain"}
    assert site.fails("POST", "/v1/rules", content='{"condition": "c"}', headers=form) == (422, "Invalid")


def test_the_page_is_served_under_a_strict_policy(site: Site) -> None:
    for path, kind in {"/": "text/html", "/page.js": "javascript", "/api.js": "javascript", "/page.css": "text/css"}.items():
        response = site("GET", path)
        assert kind in response.headers["content-type"]
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "") and "https://" not in response.text


def test_times_are_written_in_utc() -> None:
    assert datetime.fromisoformat(iso(T0)) == datetime.fromtimestamp(T0 / 1000, UTC)

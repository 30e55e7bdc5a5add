"""What is remembered, told and deleted over HTTP."""

import pytest
from web_fakes import T0, FakeAsk, FakeRegistry, FakeStore, call

from web.api import create_app
from web.schemas import iso


def test_what_is_kept_is_told_by_camera() -> None:
    app = create_app(FakeRegistry(), FakeStore({("gate", T0): b"", ("gate", T0 + 5): b""}), FakeAsk())
    gate, yard = call(app, "GET", "/v1/memory").json()["memory"]
    assert (gate["camera"], gate["remembered"], gate["pictures"]) == ("gate", {"start": iso(T0), "end": iso(T0 + 5)}, 2)
    assert gate["gaps"] == [{"camera": "gate", "start": iso(T0), "end": iso(T0 + 1), "reason": "lost"}]
    assert (yard["camera"], yard["remembered"]) == ("yard", None)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("", []),
        (f"?since={(T0 + 1000) // 1000}&until={iso(T0 + 2000)}".replace("+", "%2B"), [T0]),
        (f"?until={T0 / 1000 + 1}", [T0 + 2000]),
        ("?since=-1m", [T0, T0 + 1000, T0 + 2000]),
    ],
)
def test_a_span_is_deleted_and_what_is_around_it_stays(query: str, left: list[int]) -> None:
    store = FakeStore({("gate", T0 + at): b"" for at in (0, 1000, 2000)} | {("yard", T0): b""})
    said = call(create_app(FakeRegistry(), store, FakeAsk()), "DELETE", f"/v1/memory/gate{query}").json()
    assert (said["camera"], said["deleted"]) == ("gate", 3 - len(left))
    assert store.times("gate") == left and store.times("yard") == [T0]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("pier", (404, "UnknownCamera")),
        ("gate?since=-1m&until=-2m", (422, "BadSpan")),
        ("gate?since=2099-01-01T00:00:00Z", (422, "BadSpan")),
        ("gate?since=yesterday", (422, "Invalid")),
        ("gate?until=", (422, "Invalid")),
        ("GATE", (422, "Invalid")),
    ],
)
def test_what_cannot_be_meant_deletes_nothing(path: str, error: tuple[int, str]) -> None:
    store = FakeStore({("gate", T0): b""})
    response = call(create_app(FakeRegistry(), store, FakeAsk()), "DELETE", f"/v1/memory/{path}")
    assert (response.status_code, response.json()["error"]["type"]) == error
    assert store.times("gate") == [T0]

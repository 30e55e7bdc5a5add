import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.core import Alert, Evidence, TimeRange
from pipeline.sinks import AlertDeliveryError, Webhook, deliver

EVIDENCE = Evidence(camera_id="dock", at_ms=16, span=TimeRange(start_ms=15, end_ms=17), score=0.25)
ALERT = Alert(id="a1", rule_id="r1", condition="a truck", camera_id="dock", at_ms=17, probability=0.9, evidence=(EVIDENCE,))


@dataclass
class Host:
    """A real HTTP server: it answers with the statuses given, the last one for ever, and keeps what it got."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [204])
    got: list[tuple[str, str, bytes]] = field(default_factory=list)  # path, content type, body
    silent: threading.Event | None = None  # answers only once this is set


@pytest.fixture
def host() -> Iterator[Host]:
    state = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.got.append((self.path, self.headers["content-type"], body))
            if state.silent:
                state.silent.wait(60)
            self.send_response(state.statuses.pop(0) if len(state.statuses) > 1 else state.statuses[0])
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://user:hunter2@127.0.0.1:{server.server_port}/hook?token=hunter2"
        yield state
        server.shutdown()
        thread.join()


def test_one_emit_is_one_delivery_of_the_whole_alert(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Webhook(host.url).emit(ALERT)
    ((path, content_type, body),) = host.got
    assert (path, content_type) == ("/hook?token=hunter2", "application/json")
    assert json.loads(body) == {
        "id": "a1",
        "rule_id": "r1",
        "condition": "a truck",
        "camera_id": "dock",
        "at_ms": 17,
        "probability": 0.9,
        "evidence": [{"camera_id": "dock", "at_ms": 16, "span": {"start_ms": 15, "end_ms": 17}, "score": 0.25}],
    }
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("status", [301, 307, 400, 404, 500])
def test_any_other_answer_is_an_error_and_no_redirect_is_followed(host: Host, status: int) -> None:
    host.statuses = [status]
    with pytest.raises(AlertDeliveryError, match=rf"^webhook 127\.0\.0\.1: answered {status}$"):
        Webhook(host.url).emit(ALERT)
    assert len(host.got) == 1


def assert_hidden(error: BaseException) -> None:
    assert "hunter2" not in repr(error) and error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)


def test_a_host_that_says_nothing_is_given_up_on(host: Host) -> None:
    host.silent = threading.Event()
    started = time.monotonic()
    with pytest.raises(AlertDeliveryError, match="ReadTimeout") as caught:
        Webhook(host.url, timeout_s=0.1).emit(ALERT)
    host.silent.set()
    assert time.monotonic() - started < 30
    assert_hidden(caught.value)


def test_a_host_that_is_not_there_is_named_and_nothing_else() -> None:
    sink = Webhook("http://user:hunter2@127.0.0.1:1/hunter2")
    with pytest.raises(AlertDeliveryError, match=r"^webhook 127\.0\.0\.1: ConnectError$") as caught:
        sink.emit(ALERT)
    assert_hidden(caught.value)
    assert repr(sink) == "Webhook(127.0.0.1)"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hunter2.example/x",
        "file:///etc/hunter2",
        "hunter2",
        "",
        "http://",
        "https:///hunter2",
        "http://x:hunter2/",
        "redis://x/hunter2",
    ],
)
def test_only_web_addresses_are_taken(url: str) -> None:
    with pytest.raises(AlertDeliveryError) as caught:
        Webhook(url)
    assert_hidden(caught.value)


def test_delivery_tries_again_with_longer_waits(host: Host) -> None:
    host.statuses = [500, 503, 200]
    waits: list[float] = []
    deliver(Webhook(host.url), ALERT, wait=waits.append)
    assert (len(host.got), waits) == (3, [1.0, 2.0])


def test_delivery_gives_up_and_says_so(host: Host) -> None:
    host.statuses = [500]
    waits: list[float] = []
    with pytest.raises(AlertDeliveryError):
        deliver(Webhook(host.url), ALERT, tries=2, wait=waits.append)
    assert (len(host.got), waits) == (2, [1.0])

"""Where alerts go: kept first, then told; a sink emits one alert once, or raises AlertDeliveryError."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Protocol

import httpx

from pipeline.core import Alert, LongwatchError

TIMEOUT_S = 5.0
FIRST_WAIT_S = 1.0
LONGEST = 1000  # alerts in line: the registry keeps no more
SCHEMES = ("http", "https")

# httpx logs whole URLs at INFO, and a webhook's may hold a token.
logging.getLogger("httpx").setLevel(logging.WARNING)


class AlertDeliveryError(LongwatchError):
    """An alert that did not reach its sink. The text names the host only."""


class Sink(Protocol):
    """Emits one alert once. Raises AlertDeliveryError."""

    def emit(self, alert: Alert) -> None:
        """Returns when the sink has taken the alert."""


class Webhook:
    """POSTs each alert as JSON. Follows no redirect: it might carry what the camera saw to a host that nobody chose."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL:
            raise AlertDeliveryError("webhook: not a URL") from None
        if self._url.scheme not in SCHEMES or not self._url.host:
            raise AlertDeliveryError("webhook: must be an http or https URL with a host")
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"Webhook({self._url.host})"

    def emit(self, alert: Alert) -> None:
        """Waits at most the timeout for each of connecting, sending and the status; what the host says beyond that is not read."""
        try:
            with httpx.stream("POST", self._url, json=asdict(alert), timeout=self._timeout_s, follow_redirects=False) as response:
                status = response.status_code
        except (httpx.HTTPError, OSError) as error:
            # Not chained: the cause may hold the URL.
            raise AlertDeliveryError(f"webhook {self._url.host}: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise AlertDeliveryError(f"webhook {self._url.host}: answered {status}")


def deliver(sink: Sink, alert: Alert, *, tries: int = 3, wait: Callable[[float], object] = time.sleep) -> None:
    """Emits with up to `tries` attempts, waiting 1 s, 2 s, 4 s... between them. Raises the last AlertDeliveryError."""
    for attempt in range(tries):
        try:
            sink.emit(alert)
            return
        except AlertDeliveryError:
            if attempt == tries - 1:
                raise
        wait(FIRST_WAIT_S * 2**attempt)


class Outbox:
    """Keeps each alert, then tells of it, once and in order. Not for sharing between threads."""

    def __init__(self, keep: Callable[[Alert], None], tell: Callable[[Alert], None]) -> None:
        self._keep, self._tell = keep, tell
        self._waiting: deque[Alert] = deque(maxlen=LONGEST)

    def send(self, alerts: Iterable[Alert]) -> None:
        """Raises what `keep` raises: what is not kept by then goes before whatever is sent next."""
        self._waiting.extend(alerts)
        while self._waiting:
            self._keep(self._waiting[0])
            self._tell(self._waiting.popleft())

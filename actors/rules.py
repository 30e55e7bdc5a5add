"""Watches the rules as a Ray actor: asks the decode plane about every new carrier, and tells of what came true."""

import logging
from collections.abc import Sequence
from typing import Any

from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from actors.metrics import Alerting, Metrics, loops, memory, rules
from actors.parts import Settings, open_store
from pipeline.core import Alert, StoreUnavailable
from pipeline.loop import Loop
from pipeline.rules import CannotJudge, Judgement, RuleEngine, Standing
from pipeline.sinks import AlertDeliveryError, Outbox, Webhook, deliver
from storage.registry import BadEntry, Registry
from web.guard import NotReady

log = logging.getLogger(__name__)

PATIENCE_S = 10.0


class RulesActor:
    """One for a site. What has fired is read back from the registry, so a restart repeats nothing."""

    def __init__(self, settings: Settings, fingerprint: str) -> None:
        self._registry = Registry(settings.registry_url)
        self._decode: Any = serve.get_deployment_handle("decode", app_name="decode")
        store = open_store(settings, fingerprint)
        self._engine = RuleEngine(self._judge, store, self._registry, self._registry.alerts())
        self._metrics = Metrics("rules")
        self._work = Alerting(self._metrics.registry)
        self._webhooks: dict[str, str | None] = {}  # by rule
        self._outbox = Outbox(self._keep, self._tell)
        self._loop = Loop(self._check, name="rules", every_s=0.5).start()
        self._metrics.reads(rules(self._engine), memory(store), loops(rules=self._loop))

    def ready(self) -> bool:
        """Answers once the actor is built."""
        return True

    def metrics(self) -> list[Metric]:
        """What a scrape is told."""
        return self._metrics.told()

    def close(self) -> None:
        """Stop after the check under way."""
        self._loop.close()

    def _judge(self, standing: Sequence[Standing], /) -> Sequence[Judgement | None]:
        try:
            judged: list[Judgement | None] = self._decode.judge.remote(standing).result(timeout_s=PATIENCE_S)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, StoreUnavailable) else CannotJudge(repr(error.cause))) from None
        except (RayError, RayServeException, TimeoutError) as error:
            raise NotReady(f"the decode plane does not judge now ({type(error).__name__})") from error
        return judged

    def _check(self) -> None:
        self._webhooks = {rule.id: rule.webhook for rule in self._registry.rules()}
        self._outbox.send(self._engine.check())

    def _keep(self, alert: Alert) -> None:
        try:
            self._registry.add_alert_of_watched(alert)
        except BadEntry as error:  # it never can be kept, and is to hold up no other
            log.error("alert %s: %s", alert.id, error)

    def _tell(self, alert: Alert) -> None:
        self._work.alerts.inc()
        if webhook := self._webhooks.get(alert.rule_id):
            try:
                deliver(Webhook(webhook), alert)
            except AlertDeliveryError as error:
                self._work.undelivered.inc()
                log.warning("%s", error)

"""Watches the rules as a Ray actor: asks the decode plane about every new carrier, and tells of what came true."""

import logging
from typing import Any

from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayTaskError

from actors.metrics import Alerting, Metrics, loops, memory, rules
from actors.parts import Settings, open_store
from pipeline.core import LongwatchError
from pipeline.loop import Loop
from pipeline.rules import Judgement, RuleEngine
from pipeline.sinks import AlertDeliveryError, Webhook, deliver
from storage.registry import Registry

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

    def _judge(self, condition: str, camera_id: str, /) -> Judgement:
        try:
            judgement: Judgement = self._decode.judge.remote(condition, camera_id).result(timeout_s=PATIENCE_S)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, LongwatchError) else error) from None
        return judgement

    def _check(self) -> None:
        webhooks = {rule.id: rule.webhook for rule in self._registry.rules()}
        for alert in self._engine.check():
            self._registry.add_alert(alert)
            self._work.alerts.inc()
            if webhook := webhooks.get(alert.rule_id):
                try:
                    deliver(Webhook(webhook), alert)
                except AlertDeliveryError as error:
                    self._work.undelivered.inc()
                    log.warning("%s", error)

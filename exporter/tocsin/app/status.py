"""The running process as the web server sees it."""

import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from tocsin.alert import Alert, EventAlert
from tocsin.app import surroundings
from tocsin.app.explaining import Explainer
from tocsin.app.runtime import Runtime
from tocsin.config.parts import digest
from tocsin.dispatch import ChannelStatus, Dispatcher
from tocsin.dispatch.level import LevelLoop
from tocsin.errors import LedgerError, LedgerReason
from tocsin.explain.explanation import Explanation, Life, RouteExplanation
from tocsin.explain.keys import Asked
from tocsin.exposition import State
from tocsin.ledger.base import Backlog, Ledger, Record
from tocsin.pipeline.feed import Feed
from tocsin.pipeline.tap import Tap
from tocsin.sources.http import Answer, Http, RefusedRequest
from tocsin.web import views
from tocsin.web.base import Rows

_REMOVED = "no longer configured; drop what is left of it, or configure a channel of this name again to send it"


class RunningProcess:
    """See `tocsin.web.base.Process`."""

    def __init__(
        self,
        runtime: Runtime,
        reload: Callable[[], Awaitable[Sequence[str]]],
        port_warnings: Callable[[], Sequence[str]],
    ) -> None:
        self._runtime = runtime
        self._reload = reload
        self._port_warnings = port_warnings

    @property
    def feed(self) -> Feed:
        return self._runtime.feed

    @property
    def tap(self) -> Tap:
        return self._runtime.tap

    @property
    def ledger(self) -> Ledger | None:
        return self._runtime.ledger

    def alert(self, name: str) -> Alert | None:
        config = self._runtime.config
        return config.alerts.get(name) if config else None

    def ready(self) -> Sequence[str]:
        runtime, outputs = self._runtime, self._runtime.outputs
        reasons = [
            f"alert {alert.name}: {alert.message or 'no complete snapshot yet'}"
            for alert in runtime.alerts
            if alert.state not in (State.UP, State.REFUSING)
        ]
        up = [alert for alert in runtime.alerts if alert.state is State.UP]
        reasons += [f"alert {alert.name}: {alert.doubt}" for alert in up if alert.doubt]
        configured = runtime.config.channels.keys() if runtime.config else set()
        starting = configured - outputs.running.keys()
        reasons += [f"channel {name}: starting" for name in sorted(starting)]
        reasons += [f"channel {one.name}: {one.fault}" for one in outputs.running.values() if one.fault]
        reasons += [f"source {name}: {warning}" for name, warning in sorted(runtime.inputs.warnings.items())]
        if runtime.ledger_fault:
            reasons.append(f"ledger: {runtime.ledger_fault}")
        else:
            reasons += [f"channel {one.name}: {one.unread}" for one in outputs.running.values() if one.unread]
        return reasons or ([] if runtime.config is not None else ["starting"])

    def warnings(self) -> Sequence[str]:
        alerts, outputs = self._runtime.alerts, self._runtime.outputs
        refusing = [f"alert {one.name}: {one.state}: {one.message}" for one in alerts if one.state is State.REFUSING]
        notes = [f"alert {one.name}: {one.note}" for one in alerts if one.state is State.UP and one.note]
        failing = [one for one in outputs.running.values() if one.status is not ChannelStatus.UP]
        channels = (f"channel {one.name}: {one.status}: {one.message}" for one in failing)
        return [*refusing, *notes, *channels, *self._port_warnings()]

    def alerts(self) -> Sequence[dict[str, Any]]:
        leaders = {
            alert: {"name": one["name"], "this": one["this"]} for one in self.instances() for alert in one["leads"]
        }
        return [
            {
                "name": alert.name,
                "source": alert.source,
                "state": alert.state.value,
                "message": alert.message or alert.doubt or alert.note,
                "firing": alert.firing,
                "pending": alert.pending,
                "frontier": views.source_time(alert.frontier),
                "last_progress": views.wall_time(alert.last_progress),
                "last_error": alert.last_error,
                "last_error_at": views.wall_time(alert.last_error_at),
                "gaps": alert.gaps,
                "series": alert.series or 0,
                "dropped": alert.dropped or 0,
                "events": alert.events,
                "leader": leaders.get(alert.name),
            }
            for alert in self._runtime.alerts
        ]

    def instances(self) -> Sequence[dict[str, Any]]:
        if self._runtime.ledger is None:
            return []
        sharing = self._runtime.ledger.sharing
        return [{**views.instance(one), "this": one.epoch == sharing.epoch} for one in sharing.instances]

    def configuration(self) -> dict[str, Any]:
        runtime = self._runtime
        return {
            "digest": digest(runtime.config) if runtime.config else None,
            "since": views.wall_time(runtime.configured_at),
            "refused": list(runtime.refused_configuration),
        }

    def refused(self) -> Sequence[str]:
        return [*self._runtime.refused_configuration, *self._port_warnings()]

    def channels(self) -> Sequence[dict[str, Any]]:
        config, outputs = self._runtime.config, self._runtime.outputs
        configured = config.channels.values() if config else ()
        running = [
            _channel(outputs.running[one.name], one.kind, outputs.waiting(one.name))
            for one in configured
            if one.name in outputs.running
        ]
        return [*running, *(_removed(name, left) for name, left in self._runtime.removed.items())]

    def firing(self, alert: str, limit: int) -> Sequence[dict[str, Any]]:
        pipeline = self._runtime.inputs.rows(alert)
        if pipeline is None:
            return []
        return views.firings(islice(pipeline.firings(), limit), pipeline.alert, pipeline.columns)

    def revisions(self) -> Mapping[str, int]:
        inputs = self._runtime.inputs
        running = {status.name: inputs.rows(status.name) for status in self._runtime.alerts}
        return {name: pipeline.revision for name, pipeline in running.items() if pipeline is not None}

    def rows(self, alert: str) -> Rows | None:
        pipeline = self._runtime.inputs.rows(alert)
        if pipeline is None:
            return None
        return Rows(pipeline.alert, pipeline.columns, pipeline.firings())

    def delays(self) -> Mapping[str, tuple[int, float]]:
        return {name: one.delays for name, one in self._runtime.outputs.running.items()}

    async def receive(self, alert: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Answer:
        if self._runtime.config is None:
            raise RefusedRequest(503, "this process runs no alerts yet: it is starting, or is a standby; try again")
        configured = self.alert(alert)
        if isinstance(configured, EventAlert):
            pipeline = self._runtime.inputs.events(configured.source)
            if pipeline is None:
                raise RefusedRequest(503, "this process is ending; try again")
            if isinstance(pipeline.source, Http):
                try:
                    return await pipeline.source.receive(configured.event_name, headers, body)
                except RefusedRequest as refused:
                    pipeline.refused_request(refused.status, str(refused))
                    raise
        raise RefusedRequest(404, f"no alert {alert!r} takes events over HTTP")

    async def explain(self, alert: str, asked: Asked) -> Explanation:
        return await self._explainer().key(alert, asked)

    async def life(self, record: Record) -> tuple[Life, RouteExplanation]:
        return await self._explainer().notification(record)

    def _explainer(self) -> Explainer:
        runtime = self._runtime
        if runtime.config is None:
            raise LedgerError("this process runs no alerts yet: it is starting, or is a standby", LedgerReason.LOCKED)
        now = time.time() if runtime.ledger is None else runtime.ledger.now()
        return Explainer(runtime.config, runtime.ledger, surroundings.RunningProcess(runtime), now)

    def rescan(self) -> None:
        self._runtime.outputs.rescan()

    async def reload(self) -> Sequence[str]:
        return await self._reload()


def _channel(running: Dispatcher | LevelLoop, kind: str, backlog: Backlog) -> dict[str, Any]:
    """`delivered`, `failed` (attempts) and `failures`, the latest of them: since the process started. `dead`: dead
    letters now."""
    return {
        "name": running.name,
        "type": kind,
        "state": running.status.value,
        "message": running.message,
        "pending": backlog.pending,
        "oldest_pending": views.wall_time(backlog.oldest),
        "silenced": backlog.silenced,
        "delivered": running.delivered,
        "failed": running.failed,
        "dead": backlog.dead,
        "last_delivery": views.wall_time(running.last_delivery),
        "failures": [views.failure(one) for one in running.failures],
    }


def _removed(name: str, left: Backlog) -> dict[str, Any]:
    """A channel that is no longer configured, and of which the outbox holds something; its type is unknown."""
    return {
        "name": name,
        "type": "",
        "state": "removed",
        "message": _REMOVED,
        "pending": left.pending,
        "oldest_pending": views.wall_time(left.oldest),
        "silenced": left.silenced,
        "delivered": 0,
        "failed": 0,
        "dead": left.dead,
        "last_delivery": None,
        "failures": [],
    }

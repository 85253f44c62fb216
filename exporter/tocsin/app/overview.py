"""The running process as the web server sees it."""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice

from tocsin.alert import Alert, EventAlert
from tocsin.app.runtime import Runtime
from tocsin.dispatch import Condition, Dispatcher
from tocsin.dispatch.level import LevelLoop
from tocsin.errors import LedgerError, LedgerReason, SourceError
from tocsin.firing import Firing
from tocsin.ledger.base import Attempt, Episode, Filter, Ledger, Record, Status
from tocsin.model import Columns, Row, Transition
from tocsin.pipeline.status import State
from tocsin.sources.http import RefusedRequest
from tocsin.values import jsonable, number, reader
from tocsin.web import (
    AlertStatus,
    ChannelStatus,
    Delivery,
    EpisodeRecord,
    FiringRow,
    NotificationRecord,
    Receipt,
    TransitionRecord,
)

_REMOVED = (
    "no longer configured; what is left of it can be dropped, or sent once a channel of this name is configured again"
)


class RunningOverview:
    """See `tocsin.web.Overview`."""

    def __init__(self, runtime: Runtime, reload: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self._runtime = runtime
        self._reload = reload

    def warnings(self) -> Sequence[str]:
        outputs = self._runtime.outputs
        running: list[Dispatcher | LevelLoop] = [*outputs.dispatchers.values(), *outputs.levels.values()]
        return [
            *(
                f"alert {alert.name}: {alert.state}: {alert.message}"
                for alert in self._runtime.alerts
                if alert.state is State.REFUSING
            ),
            *(
                f"alert {alert.name}: {alert.note}"
                for alert in self._runtime.alerts
                if alert.state is State.UP and alert.note
            ),
            *(
                f"channel {one.name}: {one.condition}: {one.message}"
                for one in running
                if one.condition is not Condition.UP
            ),
        ]

    def ready(self) -> Sequence[str]:
        alerts = self._runtime.alerts
        reasons = [
            f"alert {alert.name}: {alert.message or 'no complete snapshot yet'}"
            for alert in alerts
            if alert.state not in (State.UP, State.REFUSING)
        ]
        reasons += [f"alert {alert.name}: {alert.doubt}" for alert in alerts if alert.state is State.UP and alert.doubt]
        config = self._runtime.config
        started = self._runtime.outputs.dispatchers.keys() | self._runtime.outputs.levels.keys()
        starting = config.channels.keys() - started if config else ()
        reasons += [f"channel {name}: starting" for name in sorted(starting)]
        reasons += [f"channel {name}: {fault}" for name, fault in sorted(self._runtime.outputs.faults.items())]
        reasons += [f"source {name}: {warning}" for name, warning in sorted(self._runtime.warnings.items())]
        if self._runtime.ledger_fault:
            reasons.append(f"ledger: {self._runtime.ledger_fault}")
        return reasons or ([] if self._runtime.config is not None else ["starting"])

    def alerts(self) -> Sequence[AlertStatus]:
        return [
            AlertStatus(
                name=alert.name,
                source=alert.source,
                state=alert.state.value,
                message=alert.message or alert.doubt or alert.note,
                firing=alert.firing,
                pending=alert.pending,
                frontier=alert.frontier,
                last_progress=alert.last_progress,
                gaps=alert.gaps,
                series=alert.series,
                dropped=alert.dropped,
                events=alert.events,
            )
            for alert in self._runtime.alerts
        ]

    def channels(self) -> Sequence[ChannelStatus]:
        outputs = self._runtime.outputs
        removed = [
            ChannelStatus(
                name=name,
                type="",
                state="removed",
                message=_REMOVED,
                pending=left.pending,
                oldest_pending=left.oldest,
                dead=left.dead,
            )
            for name, left in self._runtime.removed.items()
        ]
        return [
            *(self._channel(one) for one in outputs.dispatchers.values()),
            *(self._channel(one) for one in outputs.levels.values()),
            *removed,
        ]

    def _channel(self, running: Dispatcher | LevelLoop) -> ChannelStatus:
        config, backlog = self._runtime.config, self._runtime.outputs.waiting(running.name)
        return ChannelStatus(
            name=running.name,
            type=config.channels[running.name].kind if config else "",
            state=running.condition.value,
            message=running.message,
            pending=backlog.pending,
            oldest_pending=backlog.oldest,
            delivered=running.delivered,
            failed=running.failed,
            dead=backlog.dead,
            last_delivery=running.last_delivery,
        )

    def firing(self, alert: str, limit: int) -> Iterable[FiringRow]:
        watch = self._runtime.watch(alert)
        if watch is None:
            return []
        shown = _Shown(watch.alert, watch.columns)
        return [shown.firing(firing) for firing in islice(watch.firings(), limit)]

    async def notifications(
        self, *, status: Status | None, channel: str | None, alert: str | None, limit: int, before: int | None
    ) -> Sequence[NotificationRecord]:
        if self._runtime.ledger is None:
            return []
        wanted = Filter(status=status, channel=channel, alert=alert, limit=limit, before=before)
        return [self._record(record) for record in await self._runtime.ledger.find(wanted)]

    async def notification(self, id_: str) -> NotificationRecord | None:
        if self._runtime.ledger is None:
            return None
        records = await self._runtime.ledger.find(Filter(id=id_, limit=1))
        return self._record(records[0]) if records else None

    async def attempts(self, id_: str) -> Sequence[Attempt]:
        return [] if self._runtime.ledger is None else await self._runtime.ledger.attempts(id_)

    async def episodes(self, alert: str, limit: int) -> Sequence[EpisodeRecord]:
        if self._runtime.ledger is None:
            return []
        return [self._episode(one) for one in await self._runtime.ledger.episodes(alert, limit)]

    async def receive(self, alert: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Receipt:
        source = self._runtime.receiver(alert)
        configured = self._alert(alert)
        if source is None or not isinstance(configured, EventAlert):
            return Receipt(status=404, error=f"no alert {alert!r} takes events over HTTP")
        try:
            count = await source.receive(configured.event_name, headers, body)
        except RefusedRequest as refused:
            self._runtime.refused_request(alert, refused.status, str(refused))
            return Receipt(status=refused.status, error=str(refused))
        except SourceError as error:
            return Receipt(status=503, error=str(error))
        return Receipt(status=202, events=count)

    async def retry(self, ids: Sequence[str]) -> int:
        count = await self._ledger().retry(ids)
        self._runtime.outputs.rescan()
        return count

    async def drop(self, ids: Sequence[str]) -> int:
        count = await self._ledger().drop(ids)
        self._runtime.outputs.rescan()
        return count

    async def transitions(self) -> AsyncGenerator[TransitionRecord, None]:
        async for transition in self._runtime.feed.follow():
            yield self._transition(transition)

    async def reload(self) -> Sequence[str]:
        return await self._reload()

    def _ledger(self) -> Ledger:
        if self._runtime.ledger is None:
            raise LedgerError("there is no ledger: no alert notifies a channel", LedgerReason.UNREADABLE)
        return self._runtime.ledger

    def _transition(self, transition: Transition) -> TransitionRecord:
        shown = _Shown(self._alert(transition.alert), transition.columns)
        row, previous = transition.row, transition.previous
        return TransitionRecord(
            alert=transition.alert,
            fingerprint=transition.fingerprint,
            kind=transition.kind.value,
            started_at=transition.started_at,
            at=transition.at,
            labels=shown.labels(row),
            value=shown.value(row),
            row=shown.row(row),
            previous=None if previous is None else shown.row(previous),
        )

    def _record(self, record: Record) -> NotificationRecord:
        shown = _Shown(self._alert(record.alert), record.columns)
        return NotificationRecord(
            seq=record.seq,
            id=record.id,
            alert=record.alert,
            channel=record.channel,
            kind=record.kind,
            status=record.status,
            fingerprint=record.fingerprint,
            started_at=record.started_at,
            at=record.at,
            attempts=record.attempts,
            created_at=record.created_at,
            not_before=record.not_before,
            settled_at=record.settled_at,
            reason=record.reason,
            detail=record.detail,
            labels=shown.labels(record.row),
            value=shown.value(record.row),
            row=shown.row(record.row),
            previous=None if record.previous is None else shown.row(record.previous),
        )

    def _episode(self, episode: Episode) -> EpisodeRecord:
        shown = _Shown(self._alert(episode.alert), episode.columns)
        return EpisodeRecord(
            alert=episode.alert,
            fingerprint=episode.fingerprint,
            started_at=episode.started_at,
            ended_at=episode.ended_at,
            firing=episode.firing,
            kind=episode.kind,
            labels=shown.labels(episode.row),
            value=shown.value(episode.row),
            row=shown.row(episode.row),
            deliveries=[
                Delivery(channel=channel, status=status, count=count)
                for (channel, status), count in episode.deliveries.items()
            ],
        )

    def _alert(self, name: str) -> Alert | None:
        config = self._runtime.config
        return config.alerts.get(name) if config else None


class _Shown:
    """Rows of an alert as people see them. An alert no longer configured shows its columns and no labels."""

    def __init__(self, alert: Alert | None, columns: Columns) -> None:
        self._read = reader(columns)
        index = {column.name: place for place, column in enumerate(columns)}
        self._static = dict(alert.static_labels) if alert else {}
        labels = alert.labels.items() if alert else ()
        self._labels = [(label, index[column]) for label, column in labels if column in index]
        self._value = index.get(alert.value) if alert and alert.value else None
        self._name = alert.name if alert else ""

    def labels(self, row: Row) -> dict[str, str]:
        return self._static | {label: text for label, place in self._labels if (text := row[place]) is not None}

    def value(self, row: Row) -> float | None:
        return None if self._value is None else number(row[self._value])

    def row(self, row: Row) -> dict[str, object]:
        return {name: jsonable(value) for name, value in self._read(row).items()}

    def firing(self, firing: Firing) -> FiringRow:
        return FiringRow(
            alert=self._name,
            fingerprint=firing.fingerprint,
            phase=firing.phase.value,  # type: ignore[arg-type]  # `absent` ones are not listed
            started_at=firing.started_at,
            labels=self.labels(firing.row),
            value=self.value(firing.row),
            row=self.row(firing.row),
        )

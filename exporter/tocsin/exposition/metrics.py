"""Tocsin's own metrics: counters and histograms that the stations feed, and gauges that are read off the live state
at each scrape."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from platform import python_version
from types import MappingProxyType
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import Metric

from tocsin.errors import Reason, RefusedReason, SourceReason
from tocsin.exposition.table import CHANNEL_STATES, REFUSED_STATUSES, TABLE, gauge_family
from tocsin.model import Kind

_State = TypeVar("_State")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertState:
    """An alert as its gauges show it. `frontier`: source time in ms; `last_progress`: wall-clock seconds; None: not
    known yet."""

    up: bool = False
    firing: int = 0
    pending: int = 0
    frontier: int | None = None
    last_progress: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """A channel as its gauges show it. `up` None: it is no longer configured. `state`: one of `CHANNEL_STATES`, None if
    it does not run. `oldest_pending`: wall-clock seconds,
    None if nothing waits; `dead`: parked now."""

    up: bool | None = True
    state: str | None = None
    pending: int = 0
    oldest_pending: float | None = None
    dead: int = 0


class AlertMetrics:
    """The metrics of one alert: counters to increase, a histogram to observe seconds with, and the live state.

    `state` is called at each scrape on the event loop, so it must answer from memory; assign it once the alert runs.
    """

    def __init__(self, children: "_Children") -> None:
        self.state: Callable[[], AlertState] = AlertState
        self.updates = children.counter("tocsin_alert_updates_total")
        self.gaps = children.counter("tocsin_alert_gaps_total")
        self.collisions = children.counter("tocsin_alert_collisions_total")
        self.negatives = children.counter("tocsin_alert_negative_total")
        self.repeated = children.counter("tocsin_alert_repeated_events_total")
        self.condition_errors = children.counter("tocsin_alert_condition_errors_total")
        self.identity_check_failures = children.counter("tocsin_alert_identity_check_failures_total")
        self.commit_seconds = children.histogram("tocsin_alert_commit_seconds")
        self._transitions = {kind: children.counter("tocsin_alert_transitions_total", kind.value) for kind in Kind}
        self._source_errors = {
            reason: children.counter("tocsin_alert_source_errors_total", reason.value) for reason in SourceReason
        }
        self._children = children
        self._missing: dict[str, Counter] = {}
        self.forget = children.remove

    def missing_column(self, column: str) -> Counter:
        """Events that lack a column that the alert names; at zero when it is asked for the first time."""
        if column not in self._missing:
            self._missing[column] = self._children.counter("tocsin_alert_missing_columns_total", column)
        return self._missing[column]

    def transitioned(self, kind: Kind, count: int = 1) -> None:
        self._transitions[kind].inc(count)

    def source_failed(self, reason: SourceReason) -> None:
        self._source_errors[reason].inc()


class SourceMetrics:
    """The metrics of one source of events."""

    def __init__(self, children: "_Children") -> None:
        self.events = children.counter("tocsin_source_events_total")
        self.unmatched = children.counter("tocsin_source_unmatched_events_total")
        self.returns = children.gauge("tocsin_source_redeliveries")
        self.near_limit = children.counter("tocsin_source_near_delivery_limit_total")
        self._refused = {
            reason: children.counter("tocsin_source_refused_events_total", reason.value) for reason in RefusedReason
        }
        self._refused_requests = {
            status: children.counter("tocsin_source_refused_requests_total", status)
            for status in (*REFUSED_STATUSES, "other")
        }
        self.forget = children.remove

    def refused_request(self, status: int) -> None:
        """A request over HTTP was answered with this status."""
        self._refused_requests.get(str(status), self._refused_requests["other"]).inc()

    def refused(self, reason: RefusedReason) -> None:
        self._refused[reason].inc()


class ChannelMetrics:
    """The metrics of one channel. `state`: see `AlertMetrics`."""

    def __init__(self, children: "_Children") -> None:
        self.state: Callable[[], ChannelState] = ChannelState
        self.attempts = children.counter("tocsin_channel_attempts_total")
        self.delivered = children.counter("tocsin_channel_delivered_total")
        self.dead_lettered = children.counter("tocsin_channel_dead_lettered_total")
        self.delivery_seconds = children.histogram("tocsin_channel_delivery_seconds")
        self._failures = {reason: children.counter("tocsin_channel_failures_total", reason.value) for reason in Reason}
        self.forget = children.remove

    def failed(self, reason: Reason) -> None:
        self._failures[reason].inc()


class Metrics:
    """All of Tocsin's own metrics, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._instruments = _Instruments(self.registry)
        self._alerts: dict[str, AlertMetrics] = {}
        self._channels: dict[str, ChannelMetrics] = {}
        self._sources: dict[str, SourceMetrics] = {}
        self._live = _Live(self._alerts, self._channels)
        self.registry.register(self._live)
        self.ledger_up = self._instruments.gauges["tocsin_ledger_up"]
        self.ledger_commit_seconds = self._instruments.histograms["tocsin_ledger_commit_seconds"]
        self.exposition_seconds = self._instruments.gauges["tocsin_exposition_seconds"]
        self._reload_successful = self._instruments.gauges["tocsin_config_last_reload_successful"]
        self._reload_success = self._instruments.gauges["tocsin_config_last_reload_success_timestamp_seconds"]
        build = TABLE["tocsin_build_info"]
        Info(build.name.removesuffix("_info"), build.help, registry=self.registry).info(
            {"version": version, "python": python_version()}
        )
        ProcessCollector(registry=self.registry)

    def alert(self, name: str) -> AlertMetrics:
        """The metrics of an alert, all at zero when it is new."""
        if name not in self._alerts:
            self._alerts[name] = AlertMetrics(_Children(self._instruments, name))
        return self._alerts[name]

    def channel(self, name: str) -> ChannelMetrics:
        """The metrics of a channel, all at zero when it is new."""
        if name not in self._channels:
            self._channels[name] = ChannelMetrics(_Children(self._instruments, name))
        return self._channels[name]

    def source(self, name: str) -> SourceMetrics:
        """The metrics of a source of events, all at zero when it is new."""
        if name not in self._sources:
            self._sources[name] = SourceMetrics(_Children(self._instruments, name))
        return self._sources[name]

    def forget_alert(self, name: str) -> None:
        """Withdraw every series of an alert that is gone."""
        if name in self._alerts:
            self._alerts.pop(name).forget()

    def forget_channel(self, name: str) -> None:
        """Withdraw every series of a channel that is gone."""
        if name in self._channels:
            self._channels.pop(name).forget()

    def forget_source(self, name: str) -> None:
        """Withdraw every series of a source that is gone."""
        if name in self._sources:
            self._sources.pop(name).forget()

    def show_removed_channels(self, removed: Callable[[], Mapping[str, ChannelState]]) -> None:
        """Show channels that are no longer configured, too. `removed` is called at each scrape for those of which
        something is left."""
        self._live.removed = removed

    def reloaded(self, *, successful: bool, at: float) -> None:
        """The configuration was read, or refused, at wall-clock time `at`. The start counts as a reading."""
        self._reload_successful.set(successful)
        if successful:
            self._reload_success.set(at)

    def collect(self) -> list[Metric]:
        """Every metric as it stands now, without the `_created` series, which the older format shows as gauges of
        their own."""
        families = sorted(self.registry.collect(), key=lambda family: _PLACES.get(family.name, len(_PLACES)))
        for family in families:
            created = f"{family.name}_created"
            family.samples = [sample for sample in family.samples if sample.name != created]
        return families


_PLACES = MappingProxyType(
    {name.removesuffix("_total").removesuffix("_info"): place for place, name in enumerate(TABLE)}
)
"""The place of each family on the page, by the name that the library gives it."""


class _Instruments:
    """The library's counters, gauges and histograms by name, made from the table."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counters: dict[str, Counter] = {}
        self.gauges: dict[str, Gauge] = {}
        self.histograms: dict[str, Histogram] = {}
        for d in TABLE.values():
            if d.live:
                continue
            match d.type:
                case "counter":
                    self.counters[d.name] = Counter(d.name, d.help, d.labels, registry=registry)
                case "gauge":
                    self.gauges[d.name] = Gauge(d.name, d.help, d.labels, registry=registry)
                case "histogram":
                    self.histograms[d.name] = Histogram(d.name, d.help, d.labels, registry=registry, buckets=d.buckets)


class _Children:
    """Makes the children of one alert or channel, and removes what it made."""

    def __init__(self, instruments: _Instruments, owner: str) -> None:
        self._instruments = instruments
        self._owner = owner
        self._made: list[tuple[Counter | Gauge | Histogram, tuple[str, ...]]] = []

    def counter(self, name: str, *labels: str) -> Counter:
        counter = self._instruments.counters[name]
        self._made.append((counter, (self._owner, *labels)))
        return counter.labels(self._owner, *labels)

    def gauge(self, name: str) -> Gauge:
        gauge = self._instruments.gauges[name]
        self._made.append((gauge, (self._owner,)))
        return gauge.labels(self._owner)

    def histogram(self, name: str) -> Histogram:
        histogram = self._instruments.histograms[name]
        self._made.append((histogram, (self._owner,)))
        return histogram.labels(self._owner)

    def remove(self) -> None:
        for instrument, labels in self._made:
            instrument.remove(*labels)


class _Live:
    """Gauges read off the live state: nothing to keep in step, and nothing stays behind when an alert or channel
    goes."""

    def __init__(self, alerts: Mapping[str, AlertMetrics], channels: Mapping[str, ChannelMetrics]) -> None:
        self.removed: Callable[[], Mapping[str, ChannelState]] = dict
        self._alerts = alerts
        self._channels = channels

    def collect(self) -> Iterator[Metric]:
        yield from _families(_ALERT_GAUGES, [(name, alert.state()) for name, alert in self._alerts.items()])
        channels = {name: channel.state() for name, channel in self._channels.items()}
        yield from _families(_CHANNEL_GAUGES, [*channels.items(), *self.removed().items()])
        states = gauge_family("tocsin_channel_state")
        for name, channel in channels.items():
            if channel.state is not None:
                for state in CHANNEL_STATES:
                    states.add_metric([name, state], float(channel.state == state))
        yield states


def _families(
    gauges: Mapping[str, Callable[[_State], float | None]], states: Iterable[tuple[str, _State]]
) -> Iterator[Metric]:
    states = list(states)
    for name, read in gauges.items():
        family = gauge_family(name)
        for owner, state in states:
            value = read(state)
            if value is not None:
                family.add_metric([owner], value)
        yield family


_ALERT_GAUGES: Mapping[str, Callable[[AlertState], float | None]] = MappingProxyType(
    {
        "tocsin_alert_up": lambda state: state.up,
        "tocsin_alert_firing": lambda state: state.firing,
        "tocsin_alert_pending": lambda state: state.pending,
        "tocsin_alert_frontier_timestamp_seconds": lambda state: (
            None if state.frontier is None else state.frontier / 1000
        ),
        "tocsin_alert_last_progress_timestamp_seconds": lambda state: state.last_progress,
    }
)
_CHANNEL_GAUGES: Mapping[str, Callable[[ChannelState], float | None]] = MappingProxyType(
    {
        "tocsin_channel_up": lambda state: state.up,
        "tocsin_channel_pending": lambda state: state.pending,
        "tocsin_channel_oldest_pending_timestamp_seconds": lambda state: state.oldest_pending,
        "tocsin_channel_dead_letters": lambda state: state.dead,
    }
)

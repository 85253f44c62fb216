"""Tocsin's own metrics: counters and histograms that the program increases, and gauges read from the running objects at
each scrape."""

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
    """An alert as its gauges show it."""

    up: bool = False
    firing: int = 0
    pending: int = 0
    frontier: int | None = None
    """Source time in ms; None: not known yet."""
    last_progress: float | None = None
    """Wall-clock seconds; None: not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """A channel as its gauges show it."""

    up: bool | None = True
    """None: it is no longer configured."""
    state: str | None = None
    """One of `CHANNEL_STATES`; None: it does not run."""
    pending: int = 0
    oldest_pending: float | None = None
    """Wall-clock seconds; None: nothing is pending."""
    dead: int = 0
    """Dead letters now."""


class AlertMetrics:
    """The metrics of one alert."""

    def __init__(self, instruments: "_Instruments", alert: str) -> None:
        self.state: Callable[[], AlertState] = AlertState
        """Called at each scrape on the event loop, so it must answer from memory; assigned once the alert runs."""
        self.updates = instruments.counter("tocsin_alert_updates_total", alert)
        self.gaps = instruments.counter("tocsin_alert_gaps_total", alert)
        self.collisions = instruments.counter("tocsin_alert_collisions_total", alert)
        self.negatives = instruments.counter("tocsin_alert_negative_total", alert)
        self.repeated = instruments.counter("tocsin_alert_repeated_events_total", alert)
        self.condition_errors = instruments.counter("tocsin_alert_condition_errors_total", alert)
        self.identity_check_failures = instruments.counter("tocsin_alert_identity_check_failures_total", alert)
        self.commit_seconds = instruments.histogram("tocsin_alert_commit_seconds", alert)
        self._transitions = {kind: instruments.counter("tocsin_alert_transitions_total", alert, kind) for kind in Kind}
        self._source_errors = {
            reason: instruments.counter("tocsin_alert_source_errors_total", alert, reason) for reason in SourceReason
        }
        self._instruments = instruments
        self._alert = alert

    def missing_column(self, column: str) -> Counter:
        """Events without a column that the alert names; at zero when it is asked for the first time."""
        return self._instruments.counter("tocsin_alert_missing_columns_total", self._alert, column)

    def transitioned(self, kind: Kind, count: int = 1) -> None:
        self._transitions[kind].inc(count)

    def source_failed(self, reason: SourceReason) -> None:
        self._source_errors[reason].inc()


class SourceMetrics:
    """The metrics of one source of events."""

    def __init__(self, instruments: "_Instruments", source: str) -> None:
        self.events = instruments.counter("tocsin_source_events_total", source)
        self.unmatched = instruments.counter("tocsin_source_unmatched_events_total", source)
        self.returns = instruments.gauge("tocsin_source_redeliveries", source)
        self.near_limit = instruments.counter("tocsin_source_near_delivery_limit_total", source)
        self._refused = {
            reason: instruments.counter("tocsin_source_refused_events_total", source, reason)
            for reason in RefusedReason
        }
        self._refused_requests = {
            status: instruments.counter("tocsin_source_refused_requests_total", source, status)
            for status in (*REFUSED_STATUSES, "other")
        }

    def refused_request(self, status: int) -> None:
        """A request over HTTP was answered with this status."""
        self._refused_requests.get(str(status), self._refused_requests["other"]).inc()

    def refused(self, reason: RefusedReason) -> None:
        self._refused[reason].inc()


class ChannelMetrics:
    """The metrics of one channel."""

    def __init__(self, instruments: "_Instruments", channel: str) -> None:
        self.state: Callable[[], ChannelState] = ChannelState
        """See `AlertMetrics.state`."""
        self.attempts = instruments.counter("tocsin_channel_attempts_total", channel)
        self.delivered = instruments.counter("tocsin_channel_delivered_total", channel)
        self.dead_lettered = instruments.counter("tocsin_channel_dead_lettered_total", channel)
        self.delivery_seconds = instruments.histogram("tocsin_channel_delivery_seconds", channel)
        self._failures = {
            reason: instruments.counter("tocsin_channel_failures_total", channel, reason) for reason in Reason
        }

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
        self.ledger_up = self._instruments.gauge("tocsin_ledger_up")
        self.ledger_commit_seconds = self._instruments.histogram("tocsin_ledger_commit_seconds")
        self.exposition_seconds = self._instruments.gauge("tocsin_exposition_seconds")
        self._reload_successful = self._instruments.gauge("tocsin_config_last_reload_successful")
        self._reload_success = self._instruments.gauge("tocsin_config_last_reload_success_timestamp_seconds")
        build = TABLE["tocsin_build_info"]
        Info(build.name.removesuffix("_info"), build.help, registry=self.registry).info(
            {"version": version, "python": python_version()}
        )
        ProcessCollector(registry=self.registry)

    def alert(self, name: str) -> AlertMetrics:
        """The metrics of an alert, all at zero when it is new."""
        if name not in self._alerts:
            self._alerts[name] = AlertMetrics(self._instruments, name)
        return self._alerts[name]

    def channel(self, name: str) -> ChannelMetrics:
        """The metrics of a channel, all at zero when it is new."""
        if name not in self._channels:
            self._channels[name] = ChannelMetrics(self._instruments, name)
        return self._channels[name]

    def source(self, name: str) -> SourceMetrics:
        """The metrics of a source of events, all at zero when it is new."""
        if name not in self._sources:
            self._sources[name] = SourceMetrics(self._instruments, name)
        return self._sources[name]

    def forget_alert(self, name: str) -> None:
        """Remove every series of an alert."""
        self._alerts.pop(name, None)
        self._instruments.forget("alert", name)

    def forget_channel(self, name: str) -> None:
        """Remove every series of a channel."""
        self._channels.pop(name, None)
        self._instruments.forget("channel", name)

    def forget_source(self, name: str) -> None:
        """Remove every series of a source."""
        self._sources.pop(name, None)
        self._instruments.forget("source", name)

    def show_removed_channels(self, removed: Callable[[], Mapping[str, ChannelState]]) -> None:
        """Show channels that are no longer configured, too. `removed` is called at each scrape for those that still
        have notifications."""
        self._live.removed = removed

    def reloaded(self, *, successful: bool, at: float) -> None:
        """The configuration was loaded, or refused, at wall-clock time `at`. The start counts as a reload."""
        self._reload_successful.set(successful)
        if successful:
            self._reload_success.set(at)

    def collect(self) -> list[Metric]:
        """Every metric, without the `_created` series, which the older format shows as gauges."""
        families = sorted(self.registry.collect(), key=lambda family: _PLACES.get(family.name, len(_PLACES)))
        for family in families:
            created = f"{family.name}_created"
            family.samples = [sample for sample in family.samples if sample.name != created]
        return families


_PLACES = MappingProxyType(
    {name.removesuffix("_total").removesuffix("_info"): place for place, name in enumerate(TABLE)}
)
"""The place of each family on the page, by the name that the library uses for it."""


class _Instruments:
    """The library's counters, gauges and histograms, built from the table."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for d in TABLE.values():
            if d.live:
                continue
            match d.type:
                case "counter":
                    self._counters[d.name] = Counter(d.name, d.help, d.labels, registry=registry)
                case "gauge":
                    self._gauges[d.name] = Gauge(d.name, d.help, d.labels, registry=registry)
                case "histogram":
                    self._histograms[d.name] = Histogram(d.name, d.help, d.labels, registry=registry, buckets=d.buckets)

    def counter(self, name: str, *labels: str) -> Counter:
        return self._counters[name].labels(*labels)

    def gauge(self, name: str, *labels: str) -> Gauge:
        return self._gauges[name].labels(*labels) if labels else self._gauges[name]

    def histogram(self, name: str, *labels: str) -> Histogram:
        return self._histograms[name].labels(*labels) if labels else self._histograms[name]

    def forget(self, label: str, value: str) -> None:
        """Remove every series with this label value."""
        for instruments in (self._counters, self._gauges, self._histograms):
            for name, instrument in instruments.items():
                if label in TABLE[name].labels:
                    instrument.remove_by_labels({label: value})


class _Live:
    """Gauges read from the running objects: nothing to keep in step, and nothing is left of a removed alert."""

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

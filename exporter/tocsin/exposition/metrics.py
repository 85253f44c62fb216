"""Tocsin's own metrics: counters and histograms that the program increases, and gauges read from the running objects at
each scrape."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from platform import python_version
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import Metric

from tocsin.errors import Reason, RefusedReason, SourceReason
from tocsin.exposition.status import AlertStatus, ChannelState, State
from tocsin.exposition.table import CHANNEL_STATES, REFUSED_STATUSES, TABLE, family
from tocsin.model import Kind

_Status = TypeVar("_Status")
_Value = TypeVar("_Value", bound=StrEnum)


class AlertMetrics:
    """The metrics of one alert."""

    def __init__(self, instruments: "_Instruments", alert: str) -> None:
        self.status: Callable[[], AlertStatus | None] = lambda: None
        """Called at each scrape on the event loop, so it must answer from memory; assigned once the alert runs here."""
        self.updates = instruments.counter("tocsin_alert_updates_total", alert)
        self.transitions = instruments.by_value("tocsin_alert_transitions_total", alert, Kind)
        self.gaps = instruments.counter("tocsin_alert_gaps_total", alert)
        self.collisions = instruments.counter("tocsin_alert_collisions_total", alert)
        self.negatives = instruments.counter("tocsin_alert_negative_total", alert)
        self.source_errors = instruments.by_value("tocsin_alert_source_errors_total", alert, SourceReason)
        self.repeated = instruments.counter("tocsin_alert_repeated_events_total", alert)
        self.condition_errors = instruments.counter("tocsin_alert_condition_errors_total", alert)
        self.identity_check_failures = instruments.counter("tocsin_alert_identity_check_failures_total", alert)
        self.commit_seconds = instruments.histogram("tocsin_alert_commit_seconds", alert)
        self._instruments = instruments
        self._alert = alert

    def missing_column(self, column: str) -> Counter:
        """Events without a column that the alert names; at zero when it is asked for the first time."""
        return self._instruments.counter("tocsin_alert_missing_columns_total", self._alert, column)


class SourceMetrics:
    """The metrics of one source of events."""

    def __init__(self, instruments: "_Instruments", source: str) -> None:
        self.events = instruments.counter("tocsin_source_events_total", source)
        self.unmatched = instruments.counter("tocsin_source_unmatched_events_total", source)
        self.returns = instruments.gauge("tocsin_source_redeliveries", source)
        self.near_limit = instruments.counter("tocsin_source_near_delivery_limit_total", source)
        self.refused = instruments.by_value("tocsin_source_refused_events_total", source, RefusedReason)
        self._refused_requests = {
            status: instruments.counter("tocsin_source_refused_requests_total", source, status)
            for status in (*REFUSED_STATUSES, "other")
        }

    def refused_request(self, status: int) -> None:
        """A request over HTTP was answered with this status."""
        self._refused_requests.get(str(status), self._refused_requests["other"]).inc()


class ChannelMetrics:
    """The metrics of one channel."""

    def __init__(self, instruments: "_Instruments", channel: str) -> None:
        self.state: Callable[[], ChannelState] = ChannelState
        """See `AlertMetrics.status`."""
        self.attempts = instruments.counter("tocsin_channel_attempts_total", channel)
        self.failures = instruments.by_value("tocsin_channel_failures_total", channel, Reason)
        self.delivered = instruments.counter("tocsin_channel_delivered_total", channel)
        self.dead_lettered = instruments.counter("tocsin_channel_dead_lettered_total", channel)
        self.delivery_seconds = instruments.histogram("tocsin_channel_delivery_seconds", channel)


class Metrics:
    """All of Tocsin's own metrics, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self.removed_channels: Callable[[], Mapping[str, ChannelState]] = dict
        """Called at each scrape for the channels that are no longer configured and still have notifications."""
        self.silences: Callable[[], Mapping[str, int]] = dict
        """Called at each scrape: how many silences there are, by state."""
        self._instruments = _Instruments(self.registry)
        self._alerts: dict[str, AlertMetrics] = {}
        self._channels: dict[str, ChannelMetrics] = {}
        self._sources: dict[str, SourceMetrics] = {}
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
        return self._alerts.get(name) or self._alerts.setdefault(name, AlertMetrics(self._instruments, name))

    def channel(self, name: str) -> ChannelMetrics:
        """The metrics of a channel, all at zero when it is new."""
        return self._channels.get(name) or self._channels.setdefault(name, ChannelMetrics(self._instruments, name))

    def source(self, name: str) -> SourceMetrics:
        """The metrics of a source of events, all at zero when it is new."""
        return self._sources.get(name) or self._sources.setdefault(name, SourceMetrics(self._instruments, name))

    def forget(self, owner: Literal["alert", "channel", "source"], name: str) -> None:
        """Remove every series of an alert, a channel or a source."""
        known: dict[str, dict[str, Any]] = {
            "alert": self._alerts,
            "channel": self._channels,
            "source": self._sources,
        }
        known[owner].pop(name, None)
        self._instruments.forget(owner, name)

    def reloaded(self, *, successful: bool, at: float) -> None:
        """The configuration was loaded, or refused, at wall-clock time `at`. The start counts as a reload."""
        self._reload_successful.set(successful)
        if successful:
            self._reload_success.set(at)

    def collect(self) -> list[Metric]:
        """Every metric, without the `_created` series, which the older format shows as gauges."""
        families = [*self.registry.collect(), *self._live()]
        families.sort(key=lambda family: _PLACES.get(family.name, len(_PLACES)))
        for one in families:
            created = f"{one.name}_created"
            one.samples = [sample for sample in one.samples if sample.name != created]
        return families

    def _live(self) -> Iterator[Metric]:
        """What is read from the running objects: nothing to keep in step, and nothing is left of a removed alert."""
        alerts = {name: status for name, alert in self._alerts.items() if (status := alert.status()) is not None}
        yield from _families(_ALERT_METRICS, alerts)
        channels = {name: channel.state() for name, channel in self._channels.items()}
        yield from _families(_CHANNEL_METRICS, {**channels, **self.removed_channels()})
        states = family("tocsin_channel_state")
        for name, channel in channels.items():
            if channel.state is not None:
                for state in CHANNEL_STATES:
                    states.add_metric([name, state], float(channel.state == state))
        yield states
        yield from _families({"tocsin_silences": float}, self.silences())


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

    def by_value(self, name: str, owner: str, values: type[_Value]) -> dict[_Value, Counter]:
        """A counter for each value of its last label, so that all are there from the start."""
        return {value: self.counter(name, owner, value) for value in values}

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


def _families(
    metrics: Mapping[str, Callable[[_Status], float | None]], statuses: Mapping[str, _Status]
) -> Iterator[Metric]:
    for name, read in metrics.items():
        made = family(name)
        for owner, status in statuses.items():
            value = read(status)
            if value is not None:
                made.add_metric([owner], value)
        yield made


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


_ALERT_METRICS: Mapping[str, Callable[[AlertStatus], float | None]] = MappingProxyType(
    {
        "tocsin_alert_up": lambda alert: alert.state is State.UP,
        "tocsin_instance_leads": lambda alert: alert.leads,
        "tocsin_alert_firing": lambda alert: alert.firing,
        "tocsin_alert_pending": lambda alert: alert.pending,
        "tocsin_alert_frontier_timestamp_seconds": lambda alert: _seconds(alert.frontier),
        "tocsin_alert_last_progress_timestamp_seconds": lambda alert: alert.last_progress,
        "tocsin_alert_progress_interval_seconds": lambda alert: alert.progress_interval,
        "tocsin_alert_series": lambda alert: alert.series,
        "tocsin_alert_series_dropped": lambda alert: alert.dropped,
        "tocsin_alert_duplicate_series_total": lambda alert: alert.duplicates,
    }
)
_CHANNEL_METRICS: Mapping[str, Callable[[ChannelState], float | None]] = MappingProxyType(
    {
        "tocsin_channel_up": lambda channel: channel.up,
        "tocsin_channel_pending": lambda channel: channel.pending,
        "tocsin_channel_oldest_pending_timestamp_seconds": lambda channel: channel.oldest_pending,
        "tocsin_channel_silenced": lambda channel: channel.silenced,
        "tocsin_channel_oldest_silenced_timestamp_seconds": lambda channel: channel.oldest_silenced,
        "tocsin_channel_dead_letters": lambda channel: channel.dead,
        "tocsin_channel_missing_alerts": lambda channel: channel.missing,
    }
)

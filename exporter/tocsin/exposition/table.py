"""Tocsin's own metrics, declared once: the registry is built from this table and docs/metrics.md is written from it.

Conventions: Prometheus's "Writing exporters" and "Instrumentation": base units, moments as Unix timestamps, one
counter for all and one for the failures, every label value present from the start.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

MetricType: TypeAlias = Literal["counter", "gauge", "histogram", "info"]

_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PATIENT = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
    3600.0,
)


CHANNEL_STATES = ("up", "failing", "refusing", "paused")
"""The states of a channel, the values of the label `state`."""

REFUSED_STATUSES = ("400", "401", "408", "413")
"""HTTP statuses with which an `http` source refuses requests; any other is counted as `other`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One metric: its name as a sample shows it, without the suffixes of a histogram.

    `buckets`: upper bounds in seconds. `live`: read off the running objects at each scrape rather than counted along
    the way.
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    live: bool = False


def _counter(name: str, text: str, *labels: str, live: bool = False) -> Definition:
    return Definition(name=f"tocsin_{name}", type="counter", help=text, labels=labels, live=live)


def _gauge(name: str, text: str, *labels: str, live: bool = False) -> Definition:
    return Definition(name=f"tocsin_{name}", type="gauge", help=text, labels=labels, live=live)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Definition:
    return Definition(name=f"tocsin_{name}", type="histogram", help=text, labels=labels, buckets=buckets)


_DEFINITIONS = (
    _gauge(
        "alert_up",
        "1 while the alert's source gives rows, 0 while it is starting, in error, stale or refusing.",
        "alert",
        live=True,
    ),
    _gauge("alert_firing", "Keys that are firing, those kept firing included.", "alert", live=True),
    _gauge("alert_pending", "Keys that are in the view, but not yet for long enough to fire.", "alert", live=True),
    _gauge(
        "alert_frontier_timestamp_seconds",
        "Source time before which everything has been applied; absent until known.",
        "alert",
        live=True,
    ),
    _gauge(
        "alert_last_progress_timestamp_seconds",
        "When the source last reported progress; absent before the first time.",
        "alert",
        live=True,
    ),
    _counter("alert_updates_total", "Row updates received from the source.", "alert"),
    _counter("alert_transitions_total", "Transitions, by kind.", "alert", "kind"),
    _counter(
        "alert_gaps_total", "Times that history was lost and a fresh snapshot had to be compared instead.", "alert"
    ),
    _counter("alert_collisions_total", "Times that two different rows of one key stood at one timestamp.", "alert"),
    _counter(
        "alert_negative_total", "Times that a multiplicity fell below zero, which no source should cause.", "alert"
    ),
    _counter("alert_source_errors_total", "Failures of the source, by reason.", "alert", "reason"),
    _counter(
        "alert_identity_check_failures_total",
        "Failed checks whether the alert's names still refer to the same objects in Materialize.",
        "alert",
    ),
    _counter("alert_repeated_events_total", "Events suppressed as duplicates (`dedupe_by`).", "alert"),
    _counter(
        "alert_missing_columns_total",
        "Events that lack a column that the alert names; for rows, subscriptions that lack one that a channel names.",
        "alert",
        "column",
    ),
    _counter(
        "alert_condition_errors_total", "Rows for which a `when` could not be evaluated and was taken to hold.", "alert"
    ),
    _histogram("alert_commit_seconds", "From a closed batch to its commit in the ledger.", "alert", buckets=_QUICK),
    _gauge("alert_series", "Series of the alert's gauge that a scrape serves.", "alert", live=True),
    _gauge("alert_series_dropped", "Series of the alert's gauge beyond max_series, not served.", "alert", live=True),
    _counter(
        "alert_duplicate_series_total", "Rows merged with another one that has the same labels.", "alert", live=True
    ),
    _counter("source_events_total", "Events received from a source of events.", "source"),
    _counter("source_unmatched_events_total", "Events that no alert takes.", "source"),
    _counter("source_refused_events_total", "What was received and is no event, by reason.", "source", "reason"),
    _counter(
        "source_refused_requests_total", "Requests to an `http` source that were refused, by status.", "source", "code"
    ),
    _gauge(
        "source_redeliveries",
        "Highest number of returns of an unacknowledged message that is near the delivery limit of its quorum queue; "
        "0 if none is.",
        "source",
    ),
    _counter(
        "source_near_delivery_limit_total",
        "Messages received that their quorum queue may drop after some more returns.",
        "source",
    ),
    _gauge(
        "channel_up",
        "1 while the channel delivers, 0 while it is paused or refusing; absent once it is removed.",
        "channel",
        live=True,
    ),
    _gauge(
        "channel_state",
        "1 for the state that the channel is in, 0 for the others; absent once it is removed.",
        "channel",
        "state",
        live=True,
    ),
    _gauge(
        "channel_pending",
        "Notifications in the outbox that wait for delivery, also for a channel that was removed.",
        "channel",
        live=True,
    ),
    _gauge(
        "channel_oldest_pending_timestamp_seconds",
        "When the oldest waiting notification was made; absent while none waits.",
        "channel",
        live=True,
    ),
    _counter("channel_attempts_total", "Attempts to deliver a notification, successful or not.", "channel"),
    _counter("channel_failures_total", "Attempts that failed, by reason.", "channel", "reason"),
    _counter("channel_delivered_total", "Notifications that the receiver accepted.", "channel"),
    _gauge(
        "channel_dead_letters",
        "Notifications given up on that are parked now, also of a channel that was removed.",
        "channel",
        live=True,
    ),
    _counter("channel_dead_lettered_total", "Notifications given up on.", "channel"),
    _histogram(
        "channel_delivery_seconds",
        "From the change in the source to acceptance by the receiver.",
        "channel",
        buckets=_PATIENT,
    ),
    _gauge("ledger_up", "1 while the ledger can be written or none is needed, 0 while it cannot be written."),
    _histogram("ledger_commit_seconds", "Duration of a transaction of the ledger.", buckets=_QUICK),
    _gauge(
        "config_last_reload_successful", "1 if the last reading of the configuration succeeded, 0 if it was refused."
    ),
    _gauge("config_last_reload_success_timestamp_seconds", "When the configuration was last read successfully."),
    _gauge("exposition_seconds", "Time that it took to put the previous scrape together."),
    Definition(
        name="tocsin_build_info",
        type="info",
        help="Always 1; the labels tell the versions.",
        labels=("version", "python"),
    ),
)

TABLE = MappingProxyType({definition.name: definition for definition in _DEFINITIONS})
"""Every metric of Tocsin's own by name, in the order in which they are shown."""


def gauge_family(name: str) -> GaugeMetricFamily:
    definition = TABLE[name]
    assert definition.type == "gauge"
    return GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)


def counter_family(name: str) -> CounterMetricFamily:
    definition = TABLE[name]
    assert definition.type == "counter"
    return CounterMetricFamily(definition.name, definition.help, labels=definition.labels)


def markdown() -> str:
    """The table for docs/metrics.md, one line a metric, ending with a line feed."""
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for definition in _DEFINITIONS:
        labels = ", ".join(f"`{label}`" for label in definition.labels) or "-"
        lines.append(f"| `{definition.name}` | {definition.type} | {labels} | {definition.help} |")
    return "\n".join(lines) + "\n"

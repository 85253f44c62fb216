"""Tocsin's own metrics, declared once: the registry is built from this table and docs/metrics.md is generated from it.

Conventions are those of Prometheus's "Writing exporters" and "Instrumentation": base units, times as Unix timestamps,
one counter for all attempts and one for the failures, every label value present from the start.
"""

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

MetricType: TypeAlias = Literal["counter", "gauge", "histogram", "info"]
Across: TypeAlias = Literal["sum", "max", "min", "leader", "each"]
"""How the series of processes that share a ledger are one: by an aggregation, as those of the process that leads the
alert, or not at all."""

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (*_FAST[1:], 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of buckets, in seconds."""

CHANNEL_STATES = ("up", "failing", "refusing", "paused")
"""The states of a channel, the values of the label `state`."""

REFUSED_STATUSES = ("400", "401", "408", "413")
"""HTTP statuses with which an `http` source refuses requests; others are counted as `other`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One metric."""

    name: str
    """As a sample shows it, without the suffixes of a histogram."""
    type: MetricType
    help: str
    """A noun phrase, with the unit."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    across: Across
    """How the series of several processes are one."""
    live: bool = False
    """Read from the running objects at each scrape, not counted along the way."""


def _define(kind: MetricType, name: str, help_: str, *labels: str, across: Across = "sum", **more: Any) -> Definition:
    return Definition(name=f"tocsin_{name}", type=kind, help=help_, labels=labels, across=across, **more)


_counter, _gauge, _histogram, _info = (partial(_define, kind) for kind in ("counter", "gauge", "histogram", "info"))

_DEFINITIONS = (
    _gauge("alert_up", "1 if the source of the alert delivers, 0 otherwise.", "alert", live=True, across="leader"),
    _gauge(
        "instance_leads",
        "1 if this process leads the alert, 0 if another process of the ledger does.",
        "alert",
        live=True,
        across="each",
    ),
    _gauge("alert_firing", "Keys firing, including those kept firing.", "alert", live=True, across="max"),
    _gauge(
        "alert_pending",
        "Keys in the view that have not been there for as long as `for`.",
        "alert",
        live=True,
        across="max",
    ),
    _gauge(
        "alert_frontier_timestamp_seconds",
        "Source time up to which all updates have been applied; absent until known.",
        "alert",
        live=True,
        across="min",
    ),
    _gauge(
        "alert_last_progress_timestamp_seconds",
        "Time of the last progress of the source; absent before the first.",
        "alert",
        live=True,
        across="min",
    ),
    _gauge(
        "alert_progress_interval_seconds",
        "Time within which a healthy source reports progress again; absent for alerts on events.",
        "alert",
        live=True,
        across="max",
    ),
    _counter("alert_updates_total", "Row updates or events received.", "alert", across="leader"),
    _counter("alert_transitions_total", "Transitions, by kind.", "alert", "kind"),
    _counter("alert_gaps_total", "Gaps: snapshots taken because the source's history was lost.", "alert"),
    _counter("alert_collisions_total", "Keys with two different rows at one timestamp.", "alert", across="max"),
    _counter("alert_negative_total", "Keys with a negative multiplicity at a timestamp.", "alert", across="max"),
    _counter("alert_source_errors_total", "Errors of the source, by reason.", "alert", "reason"),
    _counter(
        "alert_identity_check_failures_total",
        "Failed checks whether the alert's names still refer to the same objects in Materialize, and may be read.",
        "alert",
    ),
    _counter("alert_repeated_events_total", "Events suppressed as duplicates (`dedupe_by`).", "alert"),
    _counter(
        "alert_missing_columns_total",
        "Events, or subscriptions to rows, without a column that the alert or its channels name.",
        "alert",
        "column",
    ),
    _counter("alert_condition_errors_total", "Rows whose `when` failed to evaluate and was treated as true.", "alert"),
    _histogram(
        "alert_commit_seconds", "Duration from a complete batch to its commit in the ledger.", "alert", buckets=_FAST
    ),
    _gauge("alert_series", "Series of the alert's gauge that are served.", "alert", live=True, across="max"),
    _gauge(
        "alert_series_dropped", "Series of the alert's gauge beyond `max_series`.", "alert", live=True, across="max"
    ),
    _counter(
        "alert_duplicate_series_total",
        "Rows merged with another row of the same labels.",
        "alert",
        live=True,
        across="max",
    ),
    _counter("source_events_total", "Events received.", "source"),
    _counter("source_unmatched_events_total", "Events that no alert takes.", "source"),
    _counter("source_refused_events_total", "Messages that are not valid events, by reason.", "source", "reason"),
    _counter("source_refused_requests_total", "Refused requests to an `http` source, by status.", "source", "code"),
    _gauge(
        "source_redeliveries",
        "Most redeliveries of an unacknowledged message near its quorum queue's delivery limit, 0 if none.",
        "source",
        across="max",
    ),
    _counter(
        "source_near_delivery_limit_total",
        "Messages received that are near their quorum queue's delivery limit.",
        "source",
    ),
    _gauge(
        "channel_up",
        "1 if the channel delivers, 0 if it is paused or refusing; absent once it is removed.",
        "channel",
        live=True,
        across="min",
    ),
    _gauge(
        "channel_state",
        "1 for the state of the channel, 0 for the others; absent once it is removed.",
        "channel",
        "state",
        live=True,
        across="max",
    ),
    _gauge(
        "channel_pending",
        "Pending notifications, including those of a removed channel.",
        "channel",
        live=True,
        across="max",
    ),
    _gauge(
        "channel_oldest_pending_timestamp_seconds",
        "Creation time of the oldest pending notification; absent while none is pending.",
        "channel",
        live=True,
        across="min",
    ),
    _gauge(
        "channel_silenced",
        "Pending notifications that silences hold; `tocsin_channel_pending` is without them.",
        "channel",
        live=True,
        across="max",
    ),
    _gauge(
        "channel_oldest_silenced_timestamp_seconds",
        "Creation time of the oldest notification that a silence holds; absent while none is held.",
        "channel",
        live=True,
        across="min",
    ),
    _counter("channel_attempts_total", "Delivery attempts.", "channel"),
    _counter("channel_failures_total", "Failed delivery attempts, by reason.", "channel", "reason"),
    _counter("channel_delivered_total", "Notifications accepted by the receiver.", "channel"),
    _gauge(
        "channel_dead_letters",
        "Dead letters, including those of a removed channel.",
        "channel",
        live=True,
        across="max",
    ),
    _gauge(
        "channel_missing_alerts",
        "Firing alerts that an Alertmanager accepted and does not know, when it was last asked.",
        "channel",
        live=True,
    ),
    _counter("channel_dead_lettered_total", "Notifications that became dead letters.", "channel"),
    _histogram(
        "channel_delivery_seconds",
        "Duration from the change in the source to acceptance by the receiver.",
        "channel",
        buckets=_SLOW,
    ),
    _gauge(
        "ledger_up",
        "1 if the ledger can be written or none is needed, 0 otherwise, also while this process waits for others.",
        across="max",
    ),
    _gauge(
        "silences", "Silences, by state: `active`, or `pending` until their start.", "state", live=True, across="max"
    ),
    _histogram("ledger_commit_seconds", "Duration of ledger transactions.", buckets=_FAST),
    _gauge(
        "config_last_reload_successful",
        "1 if the last configuration reload succeeded, 0 if it was refused.",
        across="min",
    ),
    _gauge(
        "config_last_reload_success_timestamp_seconds",
        "Time of the last successful configuration reload.",
        across="min",
    ),
    _gauge("exposition_seconds", "Duration of the previous scrape's rendering.", across="max"),
    _info("build_info", "Version of Tocsin and of Python.", "version", "python", across="each"),
)

TABLE = MappingProxyType({definition.name: definition for definition in _DEFINITIONS})
"""Every metric of Tocsin's own by name, in the order of the page."""


def family(name: str) -> GaugeMetricFamily | CounterMetricFamily:
    """An empty family for samples that are read at a scrape."""
    definition = TABLE[name]
    make = GaugeMetricFamily if definition.type == "gauge" else CounterMetricFamily
    return make(definition.name, definition.help, labels=definition.labels)

"""Checks that no single model can make: references, names that clash, columns that cannot be meant."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

from tocsin.config.document import Document
from tocsin.config.sections import AlertSettings
from tocsin.sources.query import is_cut_short
from tocsin.sources.settings import SourceSettings

NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
"""The names of sources, channels and alerts. They become metric labels, parts of URLs and arguments of commands."""

_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN_PREFIXES = ("tocsin_", "process_", "python_")
_TAKEN_SUFFIXES = ("_total", "_sum", "_count", "_bucket")
_TAKEN_LABELS = ("le", "quantile")

OF_ROWS = (
    *("gauges", "metric", "help", "on_duplicate", "max_series", "linger", "hold", "keep_firing_for"),
    *("repeat_interval", "ignore", "initial"),
)
"""Fields of an alert that only rows have."""
OF_EVENTS = ("dedupe_by", "dedupe_window")
"""Fields of an alert that only events have."""

Report: TypeAlias = Callable[..., None]
"""Takes a code, a path below the alert, and the fields of the code's text."""


_OF_SCRAPES = frozenset({"job", "instance"})
_OF_PROMETHEUS = re.compile(r"up|ALERTS|ALERTS_FOR_STATE|scrape_.*")


def check_alert(
    name: str, alert: AlertSettings, document: Document, source: SourceSettings | None, levels: Collection[str]
) -> None:
    """Check an alert by itself and against its source. `source`: None where it is invalid; `levels`: the channels that
    are sent what fires, not what happened."""

    def report(code: str, *at: str | int, **fields: object) -> None:
        document.report(code, ("alerts", name, *at), **fields)

    on_rows = source is None or source.delivers == "rows"
    if source is not None:
        _check_subject(alert, source, report)
        if on_rows:
            _check_only(alert, OF_EVENTS, "not_for_rows", report)
        else:
            _check_events(alert, report, levels)
    _check_columns(alert, report)
    if alert.value is not None and alert.value in alert.identity:
        fields = {"name": alert.value, "part": _part(alert)}
        document.warn("value_in_key", ("alerts", name, "value"), **fields)
    if alert.query is not None and is_cut_short(alert.query):
        document.warn("comment_in_one_line", ("alerts", name, "query"))
    _check_routes(alert, report)
    if alert.gauges and on_rows:
        _check_metric(name, alert, report)
        _check_labels(alert, report)
        for label in sorted({*alert.label_columns, *alert.static_labels} & _OF_SCRAPES):
            document.warn("scrape_label", ("alerts", name, "labels"), name=label)
        if _OF_PROMETHEUS.fullmatch(alert.metric or name):
            document.warn("prometheus_metric", ("alerts", name), name=alert.metric or name)


def check_references(
    name: str, entry: object, document: Document, sources: Collection[str], channels: Collection[str]
) -> None:
    """Check the names of the source and the channels in an alert. `entry`: as it was read, if it is invalid."""
    entry = entry if isinstance(entry, dict) else {}
    source, notify = entry.get("source"), entry.get("notify")
    if isinstance(source, str) and source and source not in sources:
        document.report("unknown_source", ("alerts", name, "source"), name=source, available=sources)
    for i, route in enumerate(notify if isinstance(notify, list) else ()):
        channel, *at = (route.get("channel"), "channel") if isinstance(route, dict) else (route,)
        if isinstance(channel, str) and channel not in channels:
            document.report("unknown_channel", ("alerts", name, "notify", i, *at), name=channel, available=channels)


def check_metrics(alerts: Mapping[str, AlertSettings], document: Document) -> None:
    """Check metrics that alerts on rows share: one page can hold them if they have the same label names and different
    static labels."""
    sharing: dict[str, list[str]] = defaultdict(list)
    for name, alert in alerts.items():
        if alert.gauges:
            sharing[alert.metric or name].append(name)
    for metric, names in sharing.items():
        for first, second in combinations(names, 2):
            code = _clash(alerts[first], alerts[second])
            if code:
                at = ("metric",) if alerts[second].metric else ()
                document.report(code, ("alerts", second, *at), name=first, metric=metric)


def _clash(first: AlertSettings, second: AlertSettings) -> str:
    if {*first.label_columns, *first.static_labels} != {*second.label_columns, *second.static_labels}:
        return "shared_metric_labels"
    shared = first.static_labels.keys() & second.static_labels.keys()
    if not any(first.static_labels[label] != second.static_labels[label] for label in shared):
        return "shared_metric_series"
    return "shared_metric_help" if first.help and second.help and first.help != second.help else ""


def _check_subject(alert: AlertSettings, source: SourceSettings, report: Report) -> None:
    """Check that the alert names what this kind of source has."""
    wanted = " or ".join(source.subjects)
    for name in ("relation", "query", "topic", "event"):
        if getattr(alert, name) is not None and name not in source.subjects:
            report("unknown_subject", name, source=alert.source, name=name, listed=wanted)
    if "relation" in source.subjects and all(getattr(alert, name) is None for name in source.subjects):
        report("no_subject", listed=f"either {wanted}" if len(source.subjects) > 1 else wanted)


def _check_events(alert: AlertSettings, report: Report, levels: Collection[str]) -> None:
    _check_only(alert, OF_ROWS, "not_for_events", report)
    if "dedupe_window" in alert.model_fields_set and not alert.dedupe_by:
        report("window_without_dedupe", "dedupe_window")
    if not alert.notify:
        report("event_without_channel", "notify")
    for i, channel in enumerate(alert.channels):
        if channel in levels:
            report("event_to_level", "notify", i, name=channel)


def _check_only(alert: AlertSettings, fields: Sequence[str], code: str, report: Report) -> None:
    """Report those of the fields that are set."""
    for field in fields:
        if field in alert.model_fields_set and getattr(alert, field) is not False:
            name = AlertSettings.model_fields[field].alias or field
            report(code, name, source=alert.source, name=name)


def _check_columns(alert: AlertSettings, report: Report) -> None:
    for setting in ("key", "ignore", "labels"):
        names = getattr(alert, setting)
        for i, name in enumerate(names if isinstance(names, list) else ()):
            if name in names[:i]:
                report("listed_twice", setting, i, name=name)
    if alert.key is not None and not alert.key:
        report("empty_key", "key")
    for i, column in enumerate(alert.ignore):
        if column in alert.identity:
            report("ignored_key", "ignore", i, name=column, part=_part(alert))


def _part(alert: AlertSettings) -> str:
    return "the key" if alert.key else "the labels, which are the key here"


def _check_routes(alert: AlertSettings, report: Report) -> None:
    for i, (name, entry) in enumerate(zip(alert.channels, alert.notify, strict=True)):
        if name in alert.channels[:i]:
            report("notified_twice", "notify", i, *(() if isinstance(entry, str) else ("channel",)), name=name)
    if not alert.notify and not alert.gauges:
        report("no_effect")


def _check_metric(name: str, alert: AlertSettings, report: Report) -> None:
    metric = alert.metric or name
    fields = {"name": metric, "fix": "" if alert.metric else "; set metric, or gauges: false"}
    at = ("metric",) if alert.metric else ()
    if not _METRIC.fullmatch(metric) and (alert.metric or re.fullmatch(NAME, name)):  # or it has a problem already
        report("bad_metric", *at, **fields)
    for taken in _TAKEN_PREFIXES:
        if metric.startswith(taken):
            report("own_metric", *at, taken=taken, **fields)
    for taken in _TAKEN_SUFFIXES:
        if metric.endswith(taken) and not metric.startswith(_TAKEN_PREFIXES):
            report("counter_metric", *at, taken=taken, **fields)


def _check_labels(alert: AlertSettings, report: Report) -> None:
    for i, label in enumerate(alert.label_columns):
        listed = isinstance(alert.labels, list)
        if code := _label_code(label):
            fix = f"; set labels as a mapping, as in {{name: {label}}}" if listed else ""
            report(code, "labels", i if listed else label, name=label, fix=fix)
        if label in alert.static_labels:
            report("label_twice", "static_labels", label, name=label)
    for label, value in alert.static_labels.items():
        if code := _label_code(label):
            report(code, "static_labels", label, name=label, fix="")
        if not value:
            report("empty_label", "static_labels", label)


def _label_code(label: str) -> str:
    if not _LABEL.fullmatch(label):
        return "bad_label"
    return "own_label" if label.startswith("__") or label in _TAKEN_LABELS else ""

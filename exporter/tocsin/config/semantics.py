"""What no single section can tell: references between them, names that clash, columns that cannot be meant."""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import combinations

from tocsin.config.document import Document, Path
from tocsin.config.sections import AlertSettings
from tocsin.config.validation import suggestion
from tocsin.sources.settings import SourceSettings

NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
"""What names of sources, channels and alerts look like."""

_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN_PREFIXES = ("tocsin_", "process_", "python_")
_TAKEN_SUFFIXES = ("_total", "_sum", "_count", "_bucket")
_TAKEN_LABELS = ("le", "quantile")


def check_name(name: str, path: Path, document: Document) -> None:
    """Names of sources, channels and alerts become metric labels, parts of URLs and arguments of commands."""
    if not re.fullmatch(NAME, name):
        message = "a name is made of at most 100 letters, digits, _ and -, and does not begin with -"
        document.problems.append(document.problem(message, path))


def check_alert(
    name: str,
    alert: AlertSettings,
    document: Document,
    sources: Mapping[str, SourceSettings | None],
    channels: Iterable[str],
) -> None:
    """Everything about one alert that its model cannot see. `sources`: those there are, None where one is unreadable;
    `channels`: the names there are."""
    checker = _Checker(("alerts", name), document)
    if alert.source not in sources:
        checker.report(f"there is no source {alert.source!r}{suggestion(alert.source, sources)}", "source")
    source = sources.get(alert.source)
    if source is not None:
        _check_subject(alert, source, checker)
        _check_state(alert, source, checker)
    _check_columns(alert, checker)
    _check_routes(alert, checker, channels)
    if alert.gauges and (source is None or source.delivers == "rows"):
        _check_metric(name, alert, checker)
        _check_labels(alert, checker)


def check_event_routes(name: str, alert: AlertSettings, document: Document, levels: Container[str]) -> None:
    """What is told what fires now cannot be told of events. `levels`: the names of such channels."""
    checker = _Checker(("alerts", name), document)
    for i, entry in enumerate(alert.notify):
        channel = entry if isinstance(entry, str) else entry.channel
        if channel in levels:
            checker.report(f"{channel} is told what fires, and events do not fire; give another channel", "notify", i)


def check_annotations(name: str, alert: AlertSettings, document: Document) -> None:
    """Whether the templates compile."""
    if not alert.annotations:
        return
    from tocsin.templates import VARIABLES, Template, TemplateError

    for annotation, text in alert.annotations.items():
        path = ("alerts", name, "annotations", annotation)
        try:
            Template(text, place="", known=VARIABLES - {"annotations", "merged"})
        except TemplateError as error:
            document.problems.append(document.problem(error.message, path))


def check_metrics(alerts: Mapping[str, AlertSettings], document: Document) -> None:
    """Several alerts may share a metric if one page can hold them: equal label names, told apart by static labels."""
    sharing: dict[str, list[str]] = defaultdict(list)
    for name, alert in alerts.items():
        if alert.gauges:
            sharing[alert.metric or name].append(name)
    for metric, names in sharing.items():
        for first, second in combinations(names, 2):
            message = _clash(alerts[first], alerts[second])
            if message:
                where = "metric" if alerts[second].metric else None
                path: Path = ("alerts", second, where) if where else ("alerts", second)
                document.problems.append(
                    document.problem(f"alert {first} has the metric {metric} too: {message}", path)
                )


def _clash(first: AlertSettings, second: AlertSettings) -> str:
    if {*first.label_columns, *first.static_labels} != {*second.label_columns, *second.static_labels}:
        return "then the names of all labels must be the same"
    shared = first.static_labels.keys() & second.static_labels.keys()
    if not any(first.static_labels[label] != second.static_labels[label] for label in shared):
        return "then static_labels must tell them apart"
    if first.help and second.help and first.help != second.help:
        return "then help must be the same"
    return ""


class _Checker:
    """Where problems of one alert go."""

    def __init__(self, path: Path, document: Document) -> None:
        self._path = path
        self._document = document

    def report(self, message: str, *path: str | int) -> None:
        self._document.problems.append(self._document.problem(message, (*self._path, *path)))

    def warn(self, message: str, *path: str | int) -> None:
        self._document.warnings.append(self._document.problem(message, (*self._path, *path)))

    def once(self, names: Sequence[str], *path: str | int) -> None:
        for i, name in enumerate(names):
            if name in names[:i]:
                self.report(f"{name} is listed twice", *path, i)


_ANY_SUBJECT = ("relation", "query", "topic", "event")
_OF_STATE = (
    "gauges", "metric", "help", "on_duplicate", "max_series", "linger", "hold", "keep_firing_for", "repeat_interval",
    "ignore", "initial",
)  # fmt: skip
_OF_EVENTS = ("dedupe_by", "dedupe_window")


def _check_subject(alert: AlertSettings, source: SourceSettings, checker: _Checker) -> None:
    """Whether the alert names what this kind of source has."""
    for name in _ANY_SUBJECT:
        if getattr(alert, name) is not None and name not in source.subjects:
            checker.report(f"the source {alert.source} knows no {name}; give {' or '.join(source.subjects)}", name)
    if source.subjects == ("relation", "query") and alert.relation is None and alert.query is None:
        checker.report("give either relation or query")


def _check_state(alert: AlertSettings, source: SourceSettings, checker: _Checker) -> None:
    """Whether the alert asks for what rows have and events have not, or the other way round."""
    of_events = source.delivers == "events"
    for field in _OF_STATE if of_events else _OF_EVENTS:
        if field in alert.model_fields_set and getattr(alert, field) is not False:
            name = AlertSettings.model_fields[field].alias or field
            why = "gives events, which neither fire nor resolve" if of_events else "gives rows, not events"
            checker.report(f"the source {alert.source} {why}; remove {name}", name)
    if of_events and "dedupe_window" in alert.model_fields_set and not alert.dedupe_by:
        checker.report(
            "is the time for which repeats are held back; dedupe_by must say what a repeat is", "dedupe_window"
        )
    if of_events and not alert.notify:
        checker.report("events have no gauge; give a channel to notify", "notify")


def _check_columns(alert: AlertSettings, checker: _Checker) -> None:
    checker.once(alert.key or [], "key")
    checker.once(alert.ignore, "ignore")
    if isinstance(alert.labels, list):
        checker.once(alert.labels, "labels")
    if alert.key is not None and not alert.key:
        checker.report("must name a column; without it the label columns, or the whole row, identify a firing", "key")
    key = list(alert.label_columns.values()) if alert.key is None else alert.key
    part = "the key" if alert.key else "the labels, which are the key here"
    for i, column in enumerate(alert.ignore):
        if column in key:
            checker.report(f"{column} is part of {part}: when it changes, that is another firing", "ignore", i)
    if alert.value is not None and alert.value in key:
        checker.warn(f"{alert.value} is part of {part}: every new value is another firing", "value")


def _check_routes(alert: AlertSettings, checker: _Checker, channels: Iterable[str]) -> None:
    names = [entry if isinstance(entry, str) else entry.channel for entry in alert.notify]
    for i, (name, entry) in enumerate(zip(names, alert.notify, strict=True)):
        path: tuple[str | int, ...] = ("notify", i) if isinstance(entry, str) else ("notify", i, "channel")
        if name not in channels:
            checker.report(f"there is no channel {name!r}{suggestion(name, channels)}", *path)
        elif name in names[:i]:
            checker.report(f"{name} is notified twice", *path)
    if not alert.notify and not alert.gauges:
        checker.report("has neither gauges nor a channel to notify, so it does nothing")


def _check_metric(name: str, alert: AlertSettings, checker: _Checker) -> None:
    metric = alert.metric or name
    path = ("metric",) if alert.metric else ()
    remedy = "" if alert.metric else "; give metric, or gauges: false"
    if not _METRIC.fullmatch(metric):
        checker.report(f"{metric!r} is no metric name (letters, digits and _){remedy}", *path)
    elif metric.startswith(_TAKEN_PREFIXES):
        taken = next(prefix for prefix in _TAKEN_PREFIXES if metric.startswith(prefix))
        checker.report(f"metric names that begin with {taken} are Tocsin's own{remedy}", *path)
    elif metric.endswith(_TAKEN_SUFFIXES):
        taken = next(suffix for suffix in _TAKEN_SUFFIXES if metric.endswith(suffix))
        checker.report(
            f"a gauge's name must not end in {taken}, which belongs to counters and histograms{remedy}", *path
        )


def _check_labels(alert: AlertSettings, checker: _Checker) -> None:
    for i, label in enumerate(alert.label_columns):
        where: str | int = label if isinstance(alert.labels, dict) else i
        fault = _label_fault(label)
        if fault and isinstance(alert.labels, list):
            fault += f"; give labels as a mapping, as in {{name: {label}}}"
        if fault:
            checker.report(fault, "labels", where)
        if label in alert.static_labels:
            checker.report(f"{label} is both a label and a static label", "static_labels", label)
    for label, value in alert.static_labels.items():
        if fault := _label_fault(label):
            checker.report(fault, "static_labels", label)
        if not value:
            checker.report("must not be empty: to Prometheus an empty label is none", "static_labels", label)


def _label_fault(label: str) -> str:
    if not _LABEL.fullmatch(label):
        return f"{label!r} is no label name (letters, digits and _)"
    if label.startswith("__"):
        return "label names that begin with __ are Prometheus's own"
    return f"the label {label} is Prometheus's own" if label in _TAKEN_LABELS else ""

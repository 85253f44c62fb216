"""From files to a `Config`: read, validate section by section, lay alerts' options over their channels', check the
whole."""

import glob
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, TypeVar

from tocsin import registry
from tocsin.alert import EventAlert, RowAlert
from tocsin.config import ignored, trial
from tocsin.config.columns import mixed_digests
from tocsin.config.document import Document, Path, dotted, parse
from tocsin.config.resolved import ChannelConfig, Config, SourceConfig
from tocsin.config.sections import AlertSettings, LedgerSettings, LogSettings, Notify, WebSettings
from tocsin.config.semantics import check_alert, check_annotations, check_event_routes, check_metrics, check_name
from tocsin.config.validation import noun, suggestion, validate
from tocsin.errors import ConfigError, Problem
from tocsin.settings import Settings
from tocsin.sources.base import Subject

_ROOT = ("ledger", "web", "log", "sources", "channels", "alerts", "alert_files")
_OWN_KEY = "x-"
"""Keys of the root that begin so are left alone: a place for anchors."""

Section = TypeVar("Section", bound=Settings)


def load(path: FilePath | str, environ: Mapping[str, str]) -> Config:
    """The configuration in a file, and in those that it names. Raises ConfigError with everything that is wrong."""
    path = FilePath(path)
    text = _text(path)
    if isinstance(text, Problem):
        raise ConfigError([text])
    document = parse(text, str(path), environ)
    if document.problems and document.data is None:
        raise ConfigError(document.problems)
    if document.data is None:
        raise ConfigError([Problem(message="the file is empty", file=str(path))])
    if not isinstance(document.data, dict):
        message = f"must be a mapping of {', '.join(_ROOT)}, not {noun(document.data)}"
        raise ConfigError([Problem(message=message, file=str(path))])
    _add_alert_files(document, path.parent, environ)
    return assemble(document)


def assemble(document: Document, *, dry_run: bool = False) -> Config:
    """The configuration in a document whose data is a mapping. Raises ConfigError with everything that is wrong."""
    return _Assembly(document).run(dry_run=dry_run)


def _text(path: FilePath) -> str | Problem:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except OSError as error:
        why = (error.strerror or "it cannot be read").lower()
    except ValueError:
        why = "no file can have this name"
    return Problem(message=f"cannot read the file: {why}", file=str(path))


def _add_alert_files(document: Document, directory: FilePath, environ: Mapping[str, str]) -> None:
    root = document.data
    assert isinstance(root, dict)
    patterns = root.get("alert_files")
    if not isinstance(patterns, list):
        return
    alerts = root.get("alerts") or {}
    if not isinstance(alerts, dict):
        return
    for i, pattern in enumerate(patterns):
        if not isinstance(pattern, str) or not pattern:
            continue
        try:
            found = sorted(glob.glob(pattern, root_dir=directory, recursive=True))  # noqa: PTH207 - patterns may be absolute
        except (OSError, ValueError):
            found = []
        if not found:
            missing = document.problem(f"no file matches {pattern!r}", ("alert_files", i))
            (document.warnings if glob.has_magic(pattern) else document.problems).append(missing)
        for name in found:
            _add_alert_file(document, directory / name, alerts, environ)
    root["alerts"] = alerts


def _add_alert_file(document: Document, path: FilePath, alerts: dict[str, Any], environ: Mapping[str, str]) -> None:
    text = _text(path)
    if isinstance(text, Problem):
        document.problems.append(text)
        return
    part = parse(text, str(path), environ, at=("alerts",))
    document.problems += part.problems
    if part.data is not None and not isinstance(part.data, dict):
        message = f"must be a mapping of alerts, not {noun(part.data)}"
        document.problems.append(Problem(message=message, file=str(path)))
        return
    for name, alert in (part.data or {}).items():
        if name in alerts:
            file, line = document.place(("alerts", name))
            document.problems.append(part.problem(f"given twice; first in {file}:{line}", ("alerts", name)))
            part.places = {place: at for place, at in part.places.items() if place[:2] != ("alerts", name)}
            part.scalars = {place: at for place, at in part.scalars.items() if place[:2] != ("alerts", name)}
        else:
            alerts[name] = alert
    document.places = {**part.places, **document.places}
    document.scalars = {**part.scalars, **document.scalars}


class _Assembly:
    """One pass over a document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        assert isinstance(document.data, dict)
        self._root = document.data

    def run(self, *, dry_run: bool) -> Config:
        document = self._document
        self._check_root()
        ledger = self._section("ledger", LedgerSettings)
        web = self._section("web", WebSettings)
        log = self._section("log", LogSettings)
        sources = self._sources()
        channels, raw = self._channels()
        settings = self._alerts()
        known = {name: sources[name].settings if name in sources else None for name in self._named("sources")}
        for name, alert in settings.items():
            check_alert(name, alert, document, known, self._named("channels"))
            check_annotations(name, alert, document)
        levels = {name for name, (kind, _) in channels.items() if kind in registry.LEVELS}
        for name, alert in settings.items():
            if _is_of_events(alert, sources):
                check_event_routes(name, alert, document, levels)
        states = {name: alert for name, alert in settings.items() if not _is_of_events(alert, sources)}
        check_metrics(states, document)
        routes = {name: self._routes(name, kind, raw[name], settings) for name, (kind, _) in channels.items()}
        if document.problems:
            raise ConfigError(_in_order(document.problems))
        self._warn(web, settings)
        config = Config(
            ledger=ledger,
            web=web,
            log=log,
            sources=sources,
            channels={
                name: ChannelConfig(name=name, kind=kind, settings=config, routes=routes[name])
                for name, (kind, config) in channels.items()
            },
            alerts={
                name: _resolved(name, alert, settings, sources, levels)
                if name in states
                else _resolved_events(name, alert, sources)
                for name, alert in settings.items()
            },
            warnings=tuple(_in_order(document.warnings)),
            dry_run=dry_run,
            file=document.file,
            places={dotted(path): place for path, place in document.places.items()},
        )
        if problems := [*ignored.problems(config), *trial.problems(config)]:
            raise ConfigError(problems)
        ineffective = [
            config.problem(f"has no effect: {why}", f"channels.{name}.{key}")
            for name, channel in config.channels.items()
            for key, why in channel.settings.ineffective().items()
        ]
        return replace(config, warnings=(*config.warnings, *mixed_digests(config), *ineffective))

    def _report(self, message: str, *path: str | int) -> None:
        self._document.problems.append(self._document.problem(message, path))

    def _check_root(self) -> None:
        for key in self._root:
            if key not in _ROOT and not key.startswith(_OWN_KEY):
                self._report("is not a known key" + suggestion(key, _ROOT), key)
        files = self._root.get("alert_files", [])
        if not isinstance(files, list) or not all(isinstance(file, str) and file for file in files):
            self._report("must be a list of file names or patterns", "alert_files")
        if not self._root.get("alerts") and not files:
            self._report("there is nothing to watch; give alerts or alert_files")

    def _section(self, name: str, model: type[Section]) -> Section:
        data = self._root.get(name)
        return validate(model, {} if data is None else data, (name,), self._document) or model()

    def _mapping(self, name: str) -> dict[str, Any]:
        data = self._root.get(name)
        if data is not None and not isinstance(data, dict):
            self._report(f"must be a mapping of names, not {noun(data)}", name)
        data = data if isinstance(data, dict) else {}
        for key in data:
            check_name(key, (name, key), self._document)
        return data

    def _named(self, section: str) -> list[str]:
        data = self._root.get(section)
        return list(data) if isinstance(data, dict) else []

    def _kind(self, entry: object, path: Path, known: list[str]) -> tuple[str, dict[str, Any]] | None:
        """The `type` of a source or channel, and the rest of what it says."""
        if not isinstance(entry, dict):
            self._report(f"must be a mapping with type, not {noun(entry)}", *path)
            return None
        kind = entry.get("type")
        if kind is None:
            self._report(f"is required: one of {', '.join(known)}", *path, "type")
        elif not isinstance(kind, str):
            self._report(f"must be one of {', '.join(known)}, not {noun(kind)}", *path, "type")
        elif kind not in known:
            self._report(f"there is no type {kind!r}{suggestion(kind, known)}", *path, "type")
        else:
            return kind, {key: value for key, value in entry.items() if key != "type"}
        return None

    def _sources(self) -> dict[str, SourceConfig]:
        sources: dict[str, SourceConfig] = {}
        for name, entry in self._mapping("sources").items():
            path = ("sources", name)
            found = self._kind(entry, path, list(registry.SOURCES))
            if found is not None:
                kind, data = found
                settings = validate(registry.source_model(kind), data, path, self._document)
                sources[name] = SourceConfig(name=name, kind=kind, settings=settings)
        return sources

    def _channels(self) -> tuple[dict[str, tuple[str, Settings | None]], dict[str, dict[str, Any]]]:
        channels: dict[str, tuple[str, Settings | None]] = {}
        raw: dict[str, dict[str, Any]] = {}
        for name, entry in self._mapping("channels").items():
            path = ("channels", name)
            found = self._kind(entry, path, registry.channel_types())
            if found is not None:
                kind, raw[name] = found
                data = {"type": kind, **raw[name]}
                channels[name] = kind, validate(registry.channel_models(kind)[0], data, path, self._document)
        return channels, raw

    def _alerts(self) -> dict[str, AlertSettings]:
        alerts: dict[str, AlertSettings] = {}
        for name, entry in self._mapping("alerts").items():
            alert = validate(AlertSettings, entry, ("alerts", name), self._document)
            if alert is not None:
                alerts[name] = alert
        return alerts

    def _routes(
        self, channel: str, kind: str, base: dict[str, Any], alerts: Mapping[str, AlertSettings]
    ) -> dict[str, Settings]:
        """For each alert that notifies the channel, the options that hold for it."""
        model = registry.channel_models(kind)[1]
        fields = {field.alias or name for name, field in model.model_fields.items()}
        common = {key: value for key, value in base.items() if key in fields}
        routes: dict[str, Settings] = {}
        for name, alert in alerts.items():
            for i, entry in enumerate(alert.notify):
                own = entry.options if isinstance(entry, Notify) else {}
                if channel == (entry.channel if isinstance(entry, Notify) else entry) and name not in routes:
                    path = ("alerts", name, "notify", i)
                    options = self._laid_over(model, common, own, path, ("channels", channel))
                    if options is not None:
                        routes[name] = options
                        self._check_complete(options, channel, path)
        return routes

    def _check_complete(self, options: Settings, channel: str, path: Path) -> None:
        # What may be given at either place is optional at both; only together can they tell that it is missing.
        missing = getattr(options, "missing", None)
        sentence = missing() if callable(missing) else None
        if sentence:
            self._report(f"channel {channel}: {sentence}", *path)

    def _laid_over(
        self, model: type[Settings], common: dict[str, Any], own: dict[str, Any], path: Path, below: Path
    ) -> Settings | None:
        """The channel's options with the alert's own on top; a problem is told at the one it comes from, and once."""
        overridden = {f"{s}_file" for s in model.secrets if s in own} | {s for s in model.secrets if f"{s}_file" in own}
        merged = {**{key: value for key, value in common.items() if key not in overridden}, **own}
        document = self._document
        scratch = Document(places=document.places, scalars=document.scalars, file=document.file)
        for key in common.keys() - own.keys():
            for place, scalar in document.scalars.items():
                if place[: len(below) + 1] == (*below, key):
                    scratch.scalars = {**scratch.scalars, (*path, *place[len(below) :]): scalar}
        options = validate(model, merged, path, scratch)
        inherited = tuple(dotted((*path, key)) for key in common.keys() - own.keys())
        for problem in scratch.problems:
            if problem.path.startswith(inherited) and inherited:
                moved = dotted(below) + problem.path[len(dotted(path)) :]
                if any(known.path == moved for known in document.problems):
                    continue
            if problem not in document.problems:
                document.problems.append(problem)
        return options

    def _warn(self, web: WebSettings, alerts: Mapping[str, AlertSettings]) -> None:
        document = self._document
        used = {alert.source for alert in alerts.values()}
        notified = {e.channel if isinstance(e, Notify) else e for alert in alerts.values() for e in alert.notify}
        for section, names in (("sources", used), ("channels", notified)):
            for name in self._named(section):
                if name not in names:
                    document.warnings.append(document.problem("no alert uses it", (section, name)))
        if not alerts:
            document.warnings.append(document.problem("there are no alerts"))
        if web.admin and not web.loopback:
            message = f"whoever reaches {web.listen} can give orders, without a password"
            document.warnings.append(document.problem(message, ("web", "admin")))


def _is_of_events(alert: AlertSettings, sources: Mapping[str, SourceConfig]) -> bool:
    source = sources.get(alert.source)
    return source is not None and source.settings is not None and source.settings.delivers == "events"


def _resolved_events(name: str, alert: AlertSettings, sources: Mapping[str, SourceConfig]) -> EventAlert:
    return EventAlert(
        name=name,
        source=alert.source,
        subject=_subject(name, alert, sources[alert.source]),
        key=tuple(alert.key or ()),
        labels=alert.label_columns,
        static_labels=alert.static_labels,
        value=alert.value,
        annotations=alert.annotations,
        notify=_channels_of(alert),
        dedupe_by=tuple(alert.dedupe_by),
        dedupe_window=alert.dedupe_window,
    )


def _channels_of(alert: AlertSettings) -> tuple[str, ...]:
    return tuple(entry if isinstance(entry, str) else entry.channel for entry in alert.notify)


def _subject(name: str, alert: AlertSettings, source: SourceConfig) -> Subject:
    """What to watch; of a source where everything has a name, the alert's own unless it gives another."""
    if "relation" in source.settings.subjects:
        return Subject(relation=alert.relation, query=alert.query)
    [key] = source.settings.subjects
    return Subject(**{key: getattr(alert, key) or name})


def _resolved(
    name: str,
    alert: AlertSettings,
    alerts: Mapping[str, AlertSettings],
    sources: Mapping[str, SourceConfig],
    levels: Container[str],
) -> RowAlert:
    labels = alert.label_columns
    notify = _channels_of(alert)
    metric = (alert.metric or name) if alert.gauges else ""
    return RowAlert(
        name=name,
        source=alert.source,
        subject=_subject(name, alert, sources[alert.source]),
        key=tuple(dict.fromkeys(labels.values() if alert.key is None else alert.key)),
        labels=labels,
        static_labels=alert.static_labels,
        value=alert.value,
        metric=metric,
        help=_help(metric, alerts),
        on_duplicate=alert.on_duplicate,
        max_series=alert.max_series,
        linger=alert.linger,
        hold=alert.hold,
        keep_firing_for=alert.keep_firing_for,
        repeat_interval=alert.repeat_interval,
        ignore=tuple(alert.ignore),
        initial=alert.initial,
        annotations=alert.annotations,
        gauges=alert.gauges,
        notify=notify,
        levels=frozenset(name for name in notify if name in levels),
    )


def _help(metric: str, alerts: Mapping[str, AlertSettings]) -> str:
    """The help text of a metric, which alerts that share it share."""
    sharing = [other for n, other in alerts.items() if other.gauges and (other.metric or n) == metric]
    given = next((other.help for other in sharing if other.help), None)
    return " ".join(given.split()) if given else "Rows that fire now."


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Once each, in the order of the files and their lines."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    return sorted(dict.fromkeys(problems), key=lambda problem: (files.index(problem.file), problem.line or 0))

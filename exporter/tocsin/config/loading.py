"""From files to a `Config`: read them, validate each section, combine the options of alerts with those of their
channels, check the whole.

There is no model of the whole file: pydantic checks references only in a model without errors, and every problem is to
be reported at once.
"""

import glob
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path as FilePath
from typing import Any

from tocsin import registry
from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.config import columns, trial
from tocsin.config.document import Document, parse
from tocsin.config.problems import Path, dotted, nearest, noun, problem
from tocsin.config.resolved import ChannelConfig, Config, SourceConfig
from tocsin.config.sections import AlertSettings, LedgerSettings, LogSettings, Notify, WebSettings
from tocsin.config.semantics import NAME, check_alert, check_metrics, check_references
from tocsin.config.tls import web_file
from tocsin.config.validation import Model, keys, validate
from tocsin.config.web_file import WebFile, WebFileSettings
from tocsin.errors import ConfigError, PluginError, Problem
from tocsin.settings import Settings, noting_secret_files, why_unreadable
from tocsin.sources.base import Subject
from tocsin.sources.settings import SourceSettings

_ROOT = ("ledger", "web", "log", "sources", "channels", "alerts", "alert_files")
_UNREAD = ("unset_variable", "not_yaml")
_OWN_KEY = "x-"
"""Keys of the root that begin so are ignored: a place for anchors."""
_NEEDED = (
    *("source", "relation", "query", "topic", "event", "key", "labels", "static_labels", "value", "metric", "gauges"),
    *("repeat_interval", "ignore", "dedupe_by", "annotations", "notify", "state"),
)
"""Settings of an alert or a source on which the checks of others depend."""
_SERVICES = {
    **dict.fromkeys(("slack", "discord", "telegram", "sms", "pagerduty", "opsgenie", "teams"), "apprise or webhook"),
    **dict.fromkeys(("smtp", "mail", "e-mail"), "email"),
    **dict.fromkeys(("http", "https", "rest"), "webhook"),
}
"""What people call a channel -> the types that send there."""


def load(path: str | PathLike[str], environ: Mapping[str, str]) -> Config:
    """Load the configuration in a file, and in those that it names. Raises ConfigError with everything that is
    wrong."""
    text = text_of(FilePath(path))
    if isinstance(text, Problem):
        raise ConfigError([text])
    return load_text(text, str(path), environ, FilePath(path).parent)


def load_text(text: str, file: str, environ: Mapping[str, str], directory: FilePath | None = None) -> Config:
    """Load the configuration in a text. `file`: its name in problems; `directory`: where `alert_files` are."""
    with noting_secret_files() as secret_files:
        config = _loaded(text, file, environ, directory)
    return replace(config, secret_files=dict(secret_files))


def _loaded(text: str, file: str, environ: Mapping[str, str], directory: FilePath | None) -> Config:
    document = parse(text, file, environ)
    if document.data is None and not document.problems:
        document.report("empty_file")
    elif not isinstance(document.data, dict) and not document.problems:
        document.report("wrong_type", wanted=f"a mapping of {', '.join(_ROOT)}", found=noun(document.data))
    if not isinstance(document.data, dict):
        raise ConfigError(document.problems)
    _add_alert_files(document, document.data, directory or FilePath(), environ)
    return _Assembly(document, document.data).config()


def text_of(path: FilePath) -> str | Problem:
    """Read a file, or return why it cannot be read."""
    try:
        return decoded(path.read_bytes(), str(path))
    except (OSError, ValueError) as error:
        return replace(problem("unreadable", why=why_unreadable(error)), file=str(path))


def decoded(content: bytes, file: str) -> str | Problem:
    """The text of a file, or why it has none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return replace(problem("unreadable", why="it is not UTF-8 text"), file=file)


def _add_alert_files(document: Document, root: dict[str, Any], directory: FilePath, environ: Mapping[str, str]) -> None:
    patterns, alerts = root.get("alert_files"), root.get("alerts") or {}
    if not isinstance(patterns, list) or not isinstance(alerts, dict):
        return
    itself, read = FilePath(document.places.file).resolve(), set[FilePath]()
    for i, pattern in enumerate(patterns):
        if not isinstance(pattern, str) or not pattern:
            continue
        try:
            found = sorted(glob.glob(pattern, root_dir=directory, recursive=True))  # noqa: PTH207 - patterns may be absolute
        except (OSError, ValueError):
            found = []
        if not found:
            report = document.warn if glob.has_magic(pattern) else document.report
            report("no_match", ("alert_files", i), name=pattern)
        for path in (directory / name for name in found):
            if path.resolve() == itself:
                document.report("matches_itself", ("alert_files", i), name=pattern)
            if path.resolve() in read | {itself}:
                continue
            read.add(path.resolve())
            text = text_of(path)
            if isinstance(text, Problem):
                document.problems.append(text)
                continue
            known = {name: "{}:{}".format(*document.places.line(dotted(("alerts", name)))) for name in alerts}
            added = document.add(text, str(path), environ, ("alerts",), known)
            if isinstance(added, dict):
                alerts = {**added, **alerts}
            elif added is not None:
                wrong = problem("wrong_type", wanted="a mapping of alerts", found=noun(added))
                document.problems.append(replace(wrong, file=str(path)))
    root["alerts"] = alerts


class _Assembly:
    """One pass over a document. Problems are collected in it."""

    def __init__(self, document: Document, root: dict[str, Any]) -> None:
        self._document = document
        self._root = root

    def config(self) -> Config:
        """Return the configuration. Raises ConfigError with everything that is wrong."""
        document = self._document
        self._check_root()
        ledger = self._section("ledger", LedgerSettings)
        web = self._section("web", WebSettings)
        port = self._port(web)
        log = self._section("log", LogSettings)
        sources = self._members("sources", registry.source_types())
        channels = self._members("channels", registry.channel_types())
        alerts = self._alerts()
        levels = {name for name, (kind, _) in channels.items() if kind in registry.LEVELS}
        # A source of an unknown type has no settings, and what depends on them is not checked.
        known = {name: sources.get(name, ("", None))[1] for name in self._names("sources")}
        for name, settings in known.items():
            for key, why in settings.advice().items() if settings else ():
                document.warn("advice", ("sources", name, key), why=why)
        for name, alert in alerts.items():
            check_alert(name, alert, document, known.get(alert.source), levels)
        check_metrics({name: one for name, one in alerts.items() if not _on_events(known.get(one.source))}, document)
        routes = {name: self._routes(name, kind, alerts) for name, (kind, _) in channels.items()}
        valid = Config(
            ledger=ledger,
            web=web,
            web_file=port,
            log=log,
            sources={n: SourceConfig(name=n, kind=kind, settings=one) for n, (kind, one) in sources.items() if one},
            channels={
                n: ChannelConfig(name=n, kind=kind, settings=one, routes=routes[n])
                for n, (kind, one) in channels.items()
                if one
            },
            alerts={
                name: _resolved(name, alerts, source, levels)
                for name, alert in alerts.items()
                if (source := known.get(alert.source)) and self._has_labels(name)
            },
            places=document.places,
        )
        return self._tried(valid, alerts)

    def _tried(self, valid: Config, alerts: Mapping[str, AlertSettings]) -> Config:
        """Try the parts that are valid, and return them with warnings if they are everything."""
        document = self._document
        document.problems += [*columns.ignored(valid), *trial.offline(valid)]
        if document.problems:
            raise ConfigError(_in_order(document.problems))
        self._warn(alerts)
        warnings = (*_in_order(document.warnings), *columns.mixed_digests(valid), *_ineffective(valid))
        return replace(valid, warnings=warnings)

    def _check_root(self) -> None:
        report = self._document.report
        unknown = [key for key in self._root if key not in _ROOT and not key.startswith(_OWN_KEY)]
        for key in unknown:
            indent = {"suggestion": "; indent it under alerts"} if self._is_alert(key) else {}
            report("unknown_key", (key,), name=key, available=_ROOT, **indent)
        files = self._root.get("alert_files", [])
        if not isinstance(files, list) or not all(isinstance(file, str) and file for file in files):
            report("wrong_type", ("alert_files",), wanted="a list of file names or patterns", found=noun(files))
        if not self._root.get("alerts") and not files and not unknown:
            report("nothing_to_watch")

    def _is_alert(self, key: str) -> bool:
        """Whether a key of the root has an alert's source, or follows `alerts` without any."""
        value, before = self._root[key], [*self._root][: [*self._root].index(key)]
        follows = before[-1:] == ["alerts"] and self._root["alerts"] is None
        return follows or (isinstance(value, dict) and isinstance(value.get("source"), str))

    def _validated(self, model: type[Model], data: object, *path: str) -> Model | None:
        value, found = validate(model, data, dotted(path), self._document.places, needed=_NEEDED)
        self._document.problems += found
        return value

    def _section(self, name: str, model: type[Model]) -> Model:
        data = self._root.get(name)
        return self._validated(model, {} if data is None else data, name) or model()

    def _port(self, web: WebSettings) -> WebFileSettings:
        """Check who may change something through the port; return the settings of `web.config_file`."""
        found = WebFile(file="") if web.config_file is None else web_file(web.config_file)
        self._document.problems += found.problems
        self._document.warnings += found.warnings
        report, settings = self._document.report, found.settings
        tls = settings.tls_server_config
        if not found.problems:
            for i, name in enumerate(web.admins):
                if name not in settings.basic_auth_users and not tls.verifies:
                    users = [*settings.basic_auth_users]
                    report("unknown_user", ("web", "admins", i), name=name, available=users)
            is_open = not (settings.basic_auth_users or web.tokens or tls.requires_certificate)
            if web.admin and is_open and not web.loopback:
                report("open_admin", ("web", "admin"), name=web.listen)
            elif web.admin and not is_open and not web.admins and "admin" not in {t.role for t in web.tokens.values()}:
                report("no_admin", ("web", "admin"))
        return settings

    def _mapping(self, name: str) -> dict[str, Any]:
        data = self._root.get(name)
        if data is not None and not isinstance(data, dict):
            self._document.report("wrong_type", (name,), wanted="a mapping of names", found=noun(data))
        for key in self._names(name):
            if not re.fullmatch(NAME, key):
                self._document.report("bad_name", (name, key), name=key)
        return data if isinstance(data, dict) else {}

    def _names(self, section: str) -> list[str]:
        data = self._root.get(section)
        return list(data) if isinstance(data, dict) else []

    def _members(self, section: str, kinds: list[str]) -> dict[str, tuple[str, Any]]:
        """The sources or channels: name -> type and settings, which are None where they are invalid."""
        members: dict[str, tuple[str, Any]] = {}
        for name, entry in self._mapping(section).items():
            kind = self._kind(entry, (section, name), kinds)
            model = None if kind is None else self._model(kind, (section, name))
            if kind is not None and model is not None:
                # Only the models of channels have the type as a field.
                data = {key: value for key, value in entry.items() if key != "type" or key in model.model_fields}
                members[name] = kind, self._validated(model, data, section, name)
        return members

    def _model(self, kind: str, path: Path) -> type[Settings] | None:
        try:
            return registry.source_model(kind) if path[0] == "sources" else registry.channel_models(kind)[0]
        except PluginError as error:
            self._document.report("plugin", (*path, "type"), name=kind, why=error.why)
            return None

    def _kind(self, entry: object, path: Path, kinds: list[str]) -> str | None:
        report = self._document.report
        kind = entry.get("type") if isinstance(entry, dict) else None
        if not isinstance(entry, dict):
            report("wrong_type", path, wanted="a mapping with type", found=noun(entry))
        elif kind is None:
            report("no_type", (*path, "type"), available=kinds)
        elif not isinstance(kind, str):
            report("wrong_type", (*path, "type"), wanted=f"one of {', '.join(kinds)}", found=noun(kind))
        elif kind not in kinds:
            types = _SERVICES.get(kind.lower()) if path[0] == "channels" else None
            hint = f"; use {types}" if types else nearest(kind, kinds)
            report("unknown_type", (*path, "type"), name=kind, available=kinds, suggestion=hint)
        else:
            return kind
        return None

    def _alerts(self) -> dict[str, AlertSettings]:
        alerts: dict[str, AlertSettings] = {}
        for name, entry in self._mapping("alerts").items():
            alert = self._validated(AlertSettings, entry, "alerts", name)
            # Of an invalid alert, the names that can be read are checked too.
            named = entry if alert is None else alert.model_dump(include={"source", "notify"})
            check_references(name, named, self._document, self._names("sources"), self._names("channels"))
            if alert is not None:
                alerts[name] = alert
        return alerts

    def _has_labels(self, name: str) -> bool:
        """Whether an alert's labels are valid, so that templates can be tried with them."""
        begins = tuple(dotted(("alerts", name, setting)) for setting in ("labels", "static_labels"))
        return not any(one.path.startswith(begins) for one in self._document.problems)

    def _routes(self, channel: str, kind: str, alerts: Mapping[str, AlertSettings]) -> dict[str, Any]:
        """For each alert that notifies the channel, the options that apply: the channel's, and over them its own."""
        model = registry.channel_models(kind)[1]
        common = {key: value for key, value in self._root["channels"][channel].items() if key in keys(model)}
        routes: dict[str, Any] = {}
        for name, alert in alerts.items():
            if channel not in alert.channels:
                continue
            i = alert.channels.index(channel)
            entry, path = alert.notify[i], ("alerts", name, "notify", i)
            own = entry.options if isinstance(entry, Notify) else {}
            options, complete = self._options(model, common, own, f"channels.{channel}", dotted(path))
            if options is not None:
                routes[name] = options
                # What the channel or the alert may set is optional at both; only together they can be incomplete.
                if why := options.missing() if complete else None:
                    self._document.report("incomplete_channel", path, name=channel, why=why)
        return routes

    def _options(
        self, model: type[Settings], common: dict[str, Any], own: dict[str, Any], channel: str, path: str
    ) -> tuple[Any, bool]:
        """The channel's options with the alert's own on top, and whether all of them are valid. A problem is reported
        where its key is, and once."""
        # A secret and the file that holds it are one setting.
        replaced = {*own, *(f"{s}_file" for s in model.secrets if s in own)}
        replaced |= {secret for secret in model.secrets if f"{secret}_file" in own}
        inherited = {key: value for key, value in common.items() if key not in replaced}
        options, found = validate(
            model, {**inherited, **own}, path, self._document.places, dict.fromkeys(inherited, channel)
        )
        reported = {one.path for one in self._document.problems}
        self._document.problems += [one for one in found if one.path.startswith(path) or one.path not in reported]
        return options, not found

    def _warn(self, alerts: Mapping[str, AlertSettings]) -> None:
        warn = self._document.warn
        used = {alert.source for alert in alerts.values()}
        notified = {channel for alert in alerts.values() for channel in alert.channels}
        for section, names in (("sources", used), ("channels", notified)):
            for name in self._names(section):
                if name not in names:
                    warn("unused", (section, name))
        if not alerts:
            warn("no_alerts")


def _ineffective(config: Config) -> Iterator[Problem]:
    """Find settings of channels that have no effect."""
    for name, channel in config.channels.items():
        for key, why in channel.settings.ineffective().items():
            yield config.places.problem("no_effect_here", f"channels.{name}.{key}", why=why)


def _on_events(source: SourceSettings | None) -> bool:
    return source is not None and source.delivers == "events"


def _resolved(name: str, alerts: Mapping[str, AlertSettings], source: SourceSettings, levels: set[str]) -> Alert:
    """The alert with every default filled in. Settings that it has as they are have the same name there."""
    alert = alerts[name]
    kind = EventAlert if _on_events(source) else RowAlert
    values = {one.name: getattr(alert, one.name) for one in fields(kind) if hasattr(alert, one.name)}
    values |= {setting: tuple(value) for setting, value in values.items() if isinstance(value, list)}
    values |= {"name": name, "labels": alert.label_columns, "notify": tuple(alert.channels)}
    if "relation" in source.subjects:
        values["subject"] = Subject(relation=alert.relation, query=alert.query)
    else:
        # Where everything has a name, it is the alert's own unless it sets another.
        values["subject"] = Subject(**{source.subjects[0]: getattr(alert, source.subjects[0]) or name})
    if kind is EventAlert:
        values["key"] = tuple(alert.key or ())
        return EventAlert(**values)
    values["key"] = tuple(dict.fromkeys(alert.identity))
    values["metric"] = (alert.metric or name) if alert.gauges else ""
    values["help"] = _help(values["metric"], alerts)
    values["levels"] = frozenset(levels.intersection(alert.channels))
    return RowAlert(**values)


def _help(metric: str, alerts: Mapping[str, AlertSettings]) -> str:
    """The help text of a metric, which alerts that share it share."""
    sharing = [other for n, other in alerts.items() if other.gauges and (other.metric or n) == metric]
    given = next((other.help for other in sharing if other.help), None)
    return " ".join(given.split()) if given else "Rows that fire now."


def _in_order(problems: list[Problem]) -> list[Problem]:
    """The problems once each, in the order of the files and their lines."""
    files = list(dict.fromkeys(one.file for one in problems))
    # A value that cannot be read has no other problem, and that of an unknown key is no template.
    unread = {one.path for one in problems if one.path and one.code in _UNREAD}
    unknown = {one.path for one in problems if one.code == "unknown_key"}
    tried = [one for one in problems if one.path not in unknown or not one.code.startswith("template_")]
    relevant = dict.fromkeys(one for one in tried if one.code in _UNREAD or one.path not in unread)
    return sorted(relevant, key=lambda one: (files.index(one.file), one.line or 0))

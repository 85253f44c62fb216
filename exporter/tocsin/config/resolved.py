"""The configuration as the rest of Tocsin gets it: every default filled in, every reference checked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.config.redaction import duration, plain
from tocsin.config.sections import LedgerSettings, LogSettings, WebSettings
from tocsin.errors import ConfigError, Problem
from tocsin.redaction import redacted


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A source: `settings` is an instance of the `Config` of the module that `tocsin.registry.SOURCES` names for
    `kind`."""

    name: str
    kind: str
    settings: Any = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """A channel: `settings` is an instance of the `Config` of its module, `routes` maps each alert that notifies it
    to its `Options`: the channel's, with the alert's own laid over them."""

    name: str
    kind: str
    settings: Any = field(repr=False)
    routes: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that can be used. `warnings` are oddities that do not prevent that.

    `file`: where it comes from. `dry_run`: send nothing and keep nothing. `places`: dotted path -> (file, line), for
    problems found later on.
    """

    ledger: LedgerSettings
    web: WebSettings
    log: LogSettings
    sources: Mapping[str, SourceConfig]
    channels: Mapping[str, ChannelConfig]
    alerts: Mapping[str, Alert]
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    dry_run: bool = False
    file: str = field(default="", compare=False)
    places: Mapping[str, tuple[str, int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def row_alerts(self) -> dict[str, RowAlert]:
        """The alerts on rows."""
        return {name: alert for name, alert in self.alerts.items() if isinstance(alert, RowAlert)}

    @property
    def event_alerts(self) -> dict[str, EventAlert]:
        """The alerts on events."""
        return {name: alert for name, alert in self.alerts.items() if isinstance(alert, EventAlert)}

    def routes(self, channel: str) -> dict[str, Any]:
        """For each alert that notifies the channel, that channel's `Options` as they hold for it."""
        return dict(self.channels[channel].routes)

    def problem(self, message: str, path: str) -> Problem:
        """A problem at a dotted path, or at the nearest thing around it that has a line."""
        around = path
        while around and around not in self.places:
            around = around[: max(around.rfind("."), around.rfind("["), 0)]
        file, line = self.places.get(around, (self.file, None))
        return Problem(message=message, path=path, file=file, line=line)

    def located(self, error: ConfigError) -> ConfigError:
        """The error with file and line for problems that only have a path: those of who builds from settings."""
        return ConfigError([p if p.file else self.problem(p.message, p.path) for p in error.problems])

    def redacted(self) -> dict[str, Any]:
        """Everything in effect, as plain data in the shape of the file, with `<secret>` for every secret."""
        tree: dict[str, Any] = redacted(
            {
                "ledger": plain(self.ledger),
                "web": plain(self.web),
                "log": plain(self.log),
                "sources": {n: {"type": s.kind, **plain(s.settings)} for n, s in self.sources.items()},
                "channels": {n: {"type": c.kind, **plain(c.settings)} for n, c in self.channels.items()},
                "alerts": {name: self._alert(alert) for name, alert in self.alerts.items()},
            }
        )
        return tree

    def _alert(self, alert: Alert) -> dict[str, Any]:
        subject = dataclasses.asdict(alert.subject)
        named = {"source": alert.source, **{name: value for name, value in subject.items() if value is not None}}
        notify = [{"channel": c, **plain(self.channels[c].routes[alert.name])} for c in alert.notify]
        common = {
            **named,
            "key": list(alert.key),
            "labels": dict(alert.labels),
            "static_labels": dict(alert.static_labels),
            "value": alert.value,
        }
        if isinstance(alert, EventAlert):
            return {
                **common,
                "dedupe_by": list(alert.dedupe_by),
                "dedupe_window": duration(alert.dedupe_window),
                "annotations": dict(alert.annotations),
                "notify": notify,
            }
        return {
            **common,
            "metric": alert.metric,
            "help": alert.help,
            "on_duplicate": alert.on_duplicate,
            "max_series": alert.max_series,
            "linger": duration(alert.linger),
            "for": duration(alert.hold),
            "keep_firing_for": duration(alert.keep_firing_for),
            "repeat_interval": duration(alert.repeat_interval),
            "ignore": list(alert.ignore),
            "initial": alert.initial,
            "annotations": dict(alert.annotations),
            "gauges": alert.gauges,
            "notify": notify,
        }

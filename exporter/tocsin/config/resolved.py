"""The configuration as the rest of Tocsin gets it: every default filled in, every reference checked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.config.plain import plain, plain_value
from tocsin.config.problems import Places
from tocsin.config.sections import AlertSettings, LedgerSettings, LogSettings, WebSettings
from tocsin.errors import Problem
from tocsin.redaction import redacted


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A source."""

    name: str
    kind: str
    """Its type, a key of `tocsin.registry.SOURCES`."""
    settings: Any = field(repr=False)
    """An instance of the `Config` of the type's module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """A channel, or a level output."""

    name: str
    kind: str
    """Its type, a key of `tocsin.registry.CHANNELS` or `LEVELS`."""
    settings: Any = field(repr=False)
    """An instance of the `Config` of the type's module."""
    routes: Mapping[str, Any] = field(repr=False)
    """Name of an alert that notifies it -> `Options`: the channel's, and over them the alert's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that can be used."""

    ledger: LedgerSettings
    web: WebSettings
    log: LogSettings
    sources: Mapping[str, SourceConfig]
    channels: Mapping[str, ChannelConfig]
    alerts: Mapping[str, Alert]
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    """Problems that do not prevent its use."""
    dry_run: bool = False
    """Whether to send and keep nothing."""
    places: Places = field(default_factory=Places, repr=False, compare=False)
    """Where its values are in the files, for problems that are found later."""

    @property
    def row_alerts(self) -> dict[str, RowAlert]:
        """The alerts on rows."""
        return {name: alert for name, alert in self.alerts.items() if isinstance(alert, RowAlert)}

    @property
    def event_alerts(self) -> dict[str, EventAlert]:
        """The alerts on events."""
        return {name: alert for name, alert in self.alerts.items() if isinstance(alert, EventAlert)}

    def redacted(self) -> dict[str, Any]:
        """Return everything in effect as plain data in the shape of the file, with a mark for every secret."""
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
        shown: dict[str, Any] = {"source": alert.source}
        shown |= {name: value for name, value in dataclasses.asdict(alert.subject).items() if value is not None}
        for name, setting in AlertSettings.model_fields.items():
            if name != "notify" and hasattr(alert, name):
                shown[setting.alias or name] = plain_value(setting, getattr(alert, name))
        return {
            **shown,
            "notify": [{"channel": c, **plain(self.channels[c].routes[alert.name])} for c in alert.notify],
        }

"""The configuration as the rest of Tocsin gets it: every default filled in, every reference checked."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.config.problems import Places
from tocsin.config.sections import AlertSettings, LedgerSettings, LogSettings, WebSettings
from tocsin.config.web_file import WebFileSettings
from tocsin.errors import Problem
from tocsin.redaction import redacted
from tocsin.registry import LEVELS


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A source."""

    name: str
    kind: str
    """Its type, as in `tocsin.registry`."""
    settings: Any = field(repr=False)
    """An instance of the `Config` of the type's module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """A channel, or a level output."""

    name: str
    kind: str
    """Its type, as in `tocsin.registry`."""
    settings: Any = field(repr=False)
    """An instance of the `Config` of the type's module."""
    routes: Mapping[str, Any] = field(repr=False)
    """Name of an alert that notifies it -> `Options`: the channel's, and over them the alert's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that can be used."""

    ledger: LedgerSettings
    web: WebSettings
    web_file: WebFileSettings
    """What `web.config_file` holds, without the certificates that it names."""
    log: LogSettings
    sources: Mapping[str, SourceConfig]
    channels: Mapping[str, ChannelConfig]
    alerts: Mapping[str, Alert]
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    """Problems that do not prevent its use."""
    dry_run: bool = False
    """Whether to send and keep nothing."""
    secret_files: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The files that secrets were read from, each with a hash of its content."""
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

    @property
    def needs_ledger(self) -> bool:
        """Whether a channel gets notifications from the outbox, or processes share their alerts through it."""
        return self.ledger.url is not None or any(channel.kind not in LEVELS for channel in self.channels.values())

    def routes(self, alert: Alert) -> Iterator[tuple[int, ChannelConfig, Any]]:
        """Yield each channel that the alert notifies: its place in `notify`, itself, and its options for the alert.
        While problems are collected, only channels and options without a problem are there."""
        for i, name in enumerate(alert.notify):
            channel = self.channels.get(name)
            if channel is not None and alert.name in channel.routes:
                yield i, channel, channel.routes[alert.name]

    def redacted(self) -> dict[str, Any]:
        """Return everything in effect as plain data in the shape of the file, with a mark for every secret."""
        tree: dict[str, Any] = redacted(
            {
                "ledger": self.ledger.as_in_a_file(),
                "web": self.web.as_in_a_file(),
                "log": self.log.as_in_a_file(),
                "sources": {n: {"type": s.kind, **s.settings.as_in_a_file()} for n, s in self.sources.items()},
                "channels": {n: {"type": c.kind, **c.settings.as_in_a_file()} for n, c in self.channels.items()},
                "alerts": {name: self._alert(alert) for name, alert in self.alerts.items()},
            }
        )
        return tree

    def _alert(self, alert: Alert) -> dict[str, Any]:
        values = {name: getattr(alert, name) for name in AlertSettings.model_fields if hasattr(alert, name)}
        shown = AlertSettings.model_construct(**values | dataclasses.asdict(alert.subject))
        routes = [{"channel": name, **self.channels[name].routes[alert.name].as_in_a_file()} for name in alert.notify]
        return {
            **shown.model_dump(by_alias=True, exclude_none=True, exclude_unset=True, warnings=False),
            "notify": routes,
        }

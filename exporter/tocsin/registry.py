"""The types of sources and channels, and the modules that implement them.

A module is imported only for a type that is in use, since some need heavy libraries.
"""

from importlib import import_module
from types import ModuleType

from tocsin.settings import Settings

SOURCES: dict[str, str] = {
    "materialize": "tocsin.sources.materialize",
    "postgres": "tocsin.sources.postgres",
    "postgres_events": "tocsin.sources.postgres_events",
    "kafka": "tocsin.sources.kafka",
    "rabbitmq": "tocsin.sources.rabbitmq",
    "http": "tocsin.sources.http",
}
"""Source type -> module. Each module has `Config` and `build(name, config) -> Source | EventSource`. `Config.delivers`
is "rows" or "events"; `Config.subjects` is what an alert may name."""

CHANNELS: dict[str, str] = {
    "novu": "tocsin.channels.novu",
    "webhook": "tocsin.channels.webhook",
    "email": "tocsin.channels.email",
    "apprise": "tocsin.channels.apprise",
    "kafka": "tocsin.channels.kafka",
    "postgres": "tocsin.channels.postgres",
    "python": "tocsin.channels.python",
    "console": "tocsin.channels.console",
}
"""Channel type -> module. Each module has `Config`, `Options` and `build(name, config, routes) -> Channel`, where
`routes` maps the name of each alert that notifies this channel to its `Options` (the channel's options, with the
alert's own on top)."""

LEVELS: dict[str, str] = {
    "alertmanager": "tocsin.channels.alertmanager",
}
"""Type of level output -> module, as in `CHANNELS`: `Config`, `Options` and `build(name, config, routes) -> Level`.
Alerts notify these like channels; `tocsin.dispatch.level` runs them."""


def channel_types() -> list[str]:
    """Return the names of all types that an alert can notify: channels first, then level outputs."""
    return [*CHANNELS, *LEVELS]


def source_model(kind: str) -> type[Settings]:
    """Return the configuration model of a source type."""
    model: type[Settings] = source_module(kind).Config
    return model


def channel_models(kind: str) -> tuple[type[Settings], type[Settings]]:
    """Return the configuration model of a channel type, and the model of the options an alert may override."""
    module = channel_module(kind)
    return module.Config, module.Options


def source_module(kind: str) -> ModuleType:
    """Import the module of a source type."""
    return import_module(SOURCES[kind])


def channel_module(kind: str) -> ModuleType:
    """Import the module of a channel or level output."""
    return import_module((CHANNELS | LEVELS)[kind])

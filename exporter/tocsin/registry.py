"""The types of sources and channels, and the modules that implement them: Tocsin's own, and those that installed
packages register as entry points (docs/python-api.md).

A module is imported only for a type that is in use, since some need heavy libraries.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tocsin.errors import PluginError
from tocsin.redaction import one_line
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


_GROUPS = {"source": "tocsin.sources", "channel": "tocsin.channels"}
"""The groups of entry points. The name of an entry point is the type, its value the module."""


def source_types() -> list[str]:
    """Return the names of all types of sources: Tocsin's own first, then those of packages."""
    return [*dict.fromkeys([*SOURCES, *_registered("source")])]


def channel_types() -> list[str]:
    """Return the names of all types that an alert can notify: channels, level outputs, then those of packages."""
    return [*dict.fromkeys([*CHANNELS, *LEVELS, *_registered("channel")])]


def source_model(kind: str) -> type[Settings]:
    """Return the configuration model of a source type. Raises PluginError."""
    model: type[Settings] = source_module(kind).Config
    return model


def channel_models(kind: str) -> tuple[type[Settings], type[Settings]]:
    """Return the configuration model of a channel type, and the model of the options an alert may override. Raises
    PluginError."""
    module = channel_module(kind)
    return module.Config, module.Options


def source_module(kind: str) -> Any:
    """Import the module of a source type. Raises PluginError."""
    return _module("source", kind, SOURCES)


def channel_module(kind: str) -> Any:
    """Import the module of a channel or level output. Raises PluginError."""
    return _module("channel", kind, CHANNELS | LEVELS)


@cache
def _registered(family: str) -> Mapping[str, Sequence[EntryPoint]]:
    """Return the entry points of installed packages by type, most often one. A package that is found twice, as by a
    link to its checkout, counts once."""
    found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for entry in entry_points(group=_GROUPS[family]):
        found.setdefault(entry.name, {})[_package(entry), entry.value] = entry
    return {kind: [*entries.values()] for kind, entries in sorted(found.items())}


def _module(family: str, kind: str, own: Mapping[str, str]) -> Any:
    entries = _registered(family).get(kind, ())
    packages = sorted(_package(entry) for entry in entries)
    listed = " and ".join(packages)
    if kind in own and entries:
        why = f"Tocsin has this type, and {listed} registers it too; uninstall that package, or rename its type"
    elif len(entries) > 1:
        why = f"{listed} register it; uninstall all but one, or rename a type"
    elif kind in own:
        return import_module(own[kind])
    else:
        module, why = _loaded(family, kind, entries[0])
        if not why:
            return module
        why = f"the package {listed} registers it as {entries[0].value}, {why}"
    raise PluginError(family, kind, why, packages)


def _loaded(family: str, kind: str, entry: EntryPoint) -> tuple[Any, str]:
    """Return what an entry point names, and why it cannot be used, if it cannot."""
    if not re.fullmatch(r"[A-Za-z_][\w-]*", kind):
        return None, "and a type is made of letters, digits, _ and -; rename it"
    try:
        module = entry.load()
    except BaseException as error:  # importing runs the package's code, which may raise anything
        if isinstance(error, KeyboardInterrupt):
            raise
        why = one_line(f"{type(error).__name__}: {error}", 200)
        return None, f"which cannot be imported: {why}; reinstall or uninstall the package"
    return module, _misfit(family, module)


def _misfit(family: str, module: Any) -> str:
    """Return what a module lacks to be a type; empty if it lacks nothing."""
    from tocsin.channels.settings import ChannelConfig, ChannelOptions
    from tocsin.sources.settings import EventSourceSettings, RowSourceSettings

    wanted: Mapping[str, tuple[type, ...]]
    if family == "source":
        wanted = {"Config": (RowSourceSettings, EventSourceSettings)}
    else:
        wanted = {"Config": (ChannelConfig,), "Options": (ChannelOptions,)}
    for name, bases in wanted.items():
        model = getattr(module, name, None)
        if not (isinstance(model, type) and issubclass(model, bases)):
            return f"whose {name} is not a subclass of {' or '.join(base.__name__ for base in bases)}"
    if family == "channel" and not issubclass(module.Config, module.Options):
        return "whose Config is not a subclass of its Options"
    return "" if callable(getattr(module, "build", None)) else "which has no function build"


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value

"""The models of source and channel types, found through the registries and imported only for the types in use."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from tocsin.errors import Problem
from tocsin.settings import Settings


def source_types() -> list[str]:
    """The names of all source types."""
    from tocsin.sources import KINDS

    return list(KINDS)


def channel_types() -> list[str]:
    """The names of all types that an alert can notify: channels first, then level outputs."""
    from tocsin.channels import KINDS

    return [*KINDS, *level_types()]


def level_types() -> list[str]:
    """The names of the types that are told what fires now, instead of each notification."""
    from tocsin.channels import LEVELS

    return list(LEVELS)


def source_model(kind: str) -> type[Settings]:
    """The configuration model of a source type."""
    from tocsin.sources import KINDS

    model: type[Settings] = import_module(KINDS[kind]).Config
    return model


def channel_models(kind: str) -> tuple[type[Settings], type[Settings]]:
    """The configuration model of a channel type, and the model of what an alert may say differently."""
    module = _channel_module(kind)
    return module.Config, module.Options


def channel_problems(kind: str, name: str, settings: Any, routes: Mapping[str, Any]) -> Sequence[Problem]:
    """Why a channel could not be built on this machine, where its type can tell beforehand."""
    find = getattr(_channel_module(kind), "problems", None)
    return () if find is None else find(name, settings, routes)


def _channel_module(kind: str) -> ModuleType:
    from tocsin.channels import KINDS, LEVELS

    return import_module({**KINDS, **LEVELS}[kind])

"""Channels for handlers written in Python."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tocsin.channels.python import Config, Options, build
from tocsin.channels.python.channel import Python


def channel(handler: str | Callable[..., Any], *, alert: dict[str, Any] | None = None, **settings: Any) -> Python:
    """A channel for a handler, by name or as it is. `alert`: options of the alert `late` over those of the channel."""
    if not isinstance(handler, str):
        module = ModuleType("handlers_of_a_test")
        module.handler = handler  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        handler = f"{module.__name__}:handler"
    config = Config.model_validate({"type": "python", "handler": handler, **settings})
    options = {name: getattr(config, name) for name in ("arguments", "secret_arguments")}
    return build("own", config, {"late": Options(**{**options, **(alert or {})})})

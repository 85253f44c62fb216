"""Outputs to Alertmanager as a configuration makes them, and alerts as they send them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.messages import message
from tocsin.channels.alertmanager import Alertmanager, Config, Options, build
from tocsin.channels.base import ActiveAlert

NOW = 1_795_242_600.0
"""The wall clock of the outputs: 52 seconds after the firings of `support.messages` began."""


def output(*urls: str, options: dict[str, Any] | None = None, **settings: Any) -> Alertmanager:
    """An output. `options`: what the alert `late` overrides."""
    config = Config.model_validate({"type": "alertmanager", "urls": urls, **settings})
    common = {name: getattr(config, name) for name in Options.model_fields}
    return build("am", config, {"late": Options(**{**common, **(options or {})})}, now=lambda: NOW)


def active(key: str = "17", **options: Any) -> ActiveAlert:
    """The alert of the order with this key."""
    return output("http://x", options=options).active(message(key=key).envelope, NOW)


@asynccontextmanager
async def closing(made: Alertmanager) -> AsyncIterator[Alertmanager]:
    """Close it at the end."""
    try:
        yield made
    finally:
        await made.close()

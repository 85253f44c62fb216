"""Outputs to Alertmanager as a configuration makes them, and firings in their shape."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.messages import message
from tocsin.channels.alertmanager import Alertmanager, Config, Options, build
from tocsin.channels.base import Standing

NOW = 1_795_242_600.0
"""What the outputs take for the time: 52 seconds after the firings of `support.messages` began."""


def output(*urls: str, options: dict[str, Any] | None = None, **settings: Any) -> Alertmanager:
    """An output of which the alert `late` is told with these options over the output's own."""
    config = Config.model_validate({"type": "alertmanager", "urls": urls, **settings})
    common = {name: getattr(config, name) for name in Options.model_fields}
    return build("am", config, {"late": Options(**{**common, **(options or {})})}, now=lambda: NOW)


def standing(key: str = "17", **options: Any) -> Standing:
    """The firing of the order with this key."""
    return output("http://x", options=options).standing(message(key=key).envelope, NOW)


@asynccontextmanager
async def closing(made: Alertmanager) -> AsyncIterator[Alertmanager]:
    """Close it in the end."""
    try:
        yield made
    finally:
        await made.close()

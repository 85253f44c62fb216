"""A channel that sends each notification, or several together, as one HTTP request made of templates.

Reading order: `settings`, `request` (what is sent), `signing`, `addresses` (where to), `channel` (when and how),
`batches` (several at once).
"""

import time
from collections.abc import Callable, Mapping

from tocsin.channels.webhook.batches import Batches
from tocsin.channels.webhook.channel import Webhook
from tocsin.channels.webhook.settings import Config, Options

__all__ = ["Config", "Options", "Webhook", "build"]


def build(name: str, config: Config, routes: Mapping[str, Options], *, now: Callable[[], float] = time.time) -> Webhook:
    """Make the channel. `now` is the wall clock, for dates in `Retry-After` and for signatures."""
    return (Webhook if config.batch is None else Batches)(name, config, routes, now)

"""A channel to Novu: a notification triggers a workflow; a resolve can cancel, delete, or trigger another.

Reading order: `settings`, `events` (what is sent), `api` (the SDK and its answers), `channel`, `cancelling`.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tocsin.channels.novu.settings import Config, Options
from tocsin.errors import needing

if TYPE_CHECKING:
    from tocsin.channels.novu.channel import Novu

__all__ = ["Config", "Options", "build"]


def build(
    name: str,
    config: Config,
    routes: Mapping[str, Options],
    *,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> "Novu":
    """Make the channel. `now`: wall-clock seconds, for dates in `Retry-After`; `monotonic`: seconds of a clock that
    does not jump.

    Importing the SDK takes a second. Raises ConfigError if it is not installed.
    """
    with needing("novu", f"channels.{name}"):
        from tocsin.channels.novu.channel import Novu
    return Novu(name, config, routes, now, monotonic)

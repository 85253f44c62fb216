"""A channel to Novu: one transition becomes one trigger of a workflow; a resolve can cancel, delete or trigger another.

Reading order: `settings`, `events` (what is sent), `api` (the SDK and its answers), `channel` (when and how).
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tocsin.channels.novu.settings import Config, Options
from tocsin.errors import ConfigError, Problem, needing

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
    """Make the channel. `now` is the wall clock, for dates in `Retry-After`. `monotonic` does not jump. Both in
    seconds.

    Takes a second, most of it to import the SDK, so call it before the event loop has other work. Raises ConfigError
    when the SDK is not installed, or when an alert's options say neither here nor there what to trigger and for whom.
    """
    problems = [
        Problem(message=f"channel {name}: {missing}", path=f"alerts.{alert}.notify")
        for alert, options in routes.items()
        if (missing := options.missing())
    ]
    if problems:
        raise ConfigError(problems)
    with needing("novu", f"channels.{name}"):
        from tocsin.channels.novu.channel import Novu
    return Novu(name, config, routes, now, monotonic)

"""A channel to the many services of the library Apprise.

Reading order: `settings`, `services` (one URL), `sends` (threads), `channel`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tocsin.channels.apprise.settings import Config, Options
from tocsin.errors import needing

if TYPE_CHECKING:
    from tocsin.channels.apprise.channel import Apprise

__all__ = ["Config", "Options", "build"]


def build(name: str, config: Config, routes: Mapping[str, Options]) -> "Apprise":
    """Build the channel. Takes a second, to import the library and its services.

    Raises ConfigError when the library is not installed, or does not understand an URL.
    """
    with needing("apprise", f"channels.{name}"):
        from tocsin.channels.apprise.channel import Apprise
    return Apprise(name, config, routes)

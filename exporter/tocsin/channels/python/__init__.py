"""A channel that calls Python: a function, method, partial or callable object of the user's own.

Reading order: `settings`, `loading` (from a name to something that can be called), `channel`.
"""

from collections.abc import Mapping

from tocsin.channels.python.channel import Python
from tocsin.channels.python.loading import loaded
from tocsin.channels.python.settings import Config, Options

__all__ = ["Config", "Options", "build"]


def build(name: str, config: Config, routes: Mapping[str, Options]) -> Python:
    """Make the channel. Imports the handler, which runs the user's code. Raises ConfigError when it cannot be imported
    or cannot be called with a notification and the arguments."""
    return Python(name, config, loaded(name, config, routes), routes)

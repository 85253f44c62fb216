"""A channel that sends mails through an SMTP server.

Reading order: `settings`, `addresses`, `mail`, `server` (connections and answers), `channel`.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tocsin.channels.email.settings import Config, Options
from tocsin.errors import ConfigError, Problem, needing

if TYPE_CHECKING:
    from tocsin.channels.email.channel import Email

__all__ = ["Config", "Options", "build"]


def build(name: str, config: Config, routes: Mapping[str, Options], *, now: Callable[[], float] = time.time) -> "Email":
    """Build the channel. `now`: the wall clock in seconds, for the date of a mail.

    Raises ConfigError when the library is not installed, or when `tls_ca` cannot be used.
    """
    with needing("email", f"channels.{name}"):
        from tocsin.channels.email.channel import Email
    try:
        return Email(name, config, routes, now)
    except OSError as error:  # ssl.SSLError is one
        text = f"cannot read certificates from {config.tls_ca}: {error.strerror or 'it holds none'}"
        raise ConfigError([Problem(code="certificates", message=text, path=f"channels.{name}.tls_ca")]) from None

"""A channel that sends mails through an SMTP server.

Reading order: `settings`, `addresses` (who), `mail` (what is sent), `server` (connections and answers), `channel`.
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
    """Make the channel. `now` is the wall clock, for the date of a mail.

    Raises ConfigError when the library is not installed, or when `tls_ca` cannot be used.
    """
    with needing("email", f"channels.{name}"):
        from tocsin.channels.email.channel import Email
    try:
        return Email(name, config, routes, now)
    except OSError as error:  # ssl.SSLError is one
        remedy = f"cannot read certificates from {config.tls_ca}: {error.strerror or 'there are none in it'}"
        raise ConfigError([Problem(code="certificates", message=remedy, path=f"channels.{name}.tls_ca")]) from None

"""An output to Alertmanager: what fires now, told as Prometheus tells it.

Alertmanager takes an alert's `endsAt` as "fires until then unless I hear of it again", so each firing is told again
from time to time, and what nobody tells any more ends by itself.

Reading order: `settings`, `alerts` (what is told), `channel` (requests and answers).
"""

import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tocsin.channels.alertmanager.channel import Alertmanager, tls
from tocsin.channels.alertmanager.settings import Config, Options
from tocsin.errors import ConfigError, Problem

__all__ = ["Alertmanager", "Config", "Options", "build", "problems"]

_UNUSABLE = "they must be PEM, the key that of the certificate, and not protected by a password"


def build(
    name: str, config: Config, routes: Mapping[str, Options], *, now: Callable[[], float] = time.time
) -> Alertmanager:
    """Make the output. `now` is the wall clock, for dates in `Retry-After`. Raises ConfigError for certificates that
    cannot be used."""
    found = problems(name, config, routes)
    if found:
        raise ConfigError(found)
    return Alertmanager(name, config, routes, now)


def problems(name: str, config: Config, _routes: Mapping[str, Options]) -> list[Problem]:
    """What is wrong with the certificates."""
    for key in ("tls_ca", "tls_cert", "tls_key"):
        path = getattr(config, key)
        if path is not None and not Path(path).is_file():
            return [Problem(message=f"there is no file {path}", path=f"channels.{name}.{key}")]
    try:
        tls(config)
    except OSError as error:
        why = _UNUSABLE if isinstance(error, ssl.SSLError) else error.strerror
        return [Problem(message=f"the certificates cannot be used: {why}", path=f"channels.{name}")]
    return []

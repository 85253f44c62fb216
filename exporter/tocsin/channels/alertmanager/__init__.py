"""An output to Alertmanager: sends what fires now, again and again, as Prometheus does.

Alertmanager takes the `endsAt` of an alert as "fires until then unless it is sent again", so what is no longer sent
ends by itself.

Reading order: `settings`, `alerts` (what is sent), `channel` (requests and answers).
"""

import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tocsin.channels.alertmanager.channel import Alertmanager, tls
from tocsin.channels.alertmanager.settings import Config, Options
from tocsin.errors import ConfigError, Problem

__all__ = ["Alertmanager", "Config", "Options", "build", "problems"]

_UNUSABLE = "use PEM files, and the key of the certificate without a password"


def build(
    name: str, config: Config, routes: Mapping[str, Options], *, now: Callable[[], float] = time.time
) -> Alertmanager:
    """Make the output. `now`: wall-clock seconds, for dates in `Retry-After`. Raises ConfigError for certificates that
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

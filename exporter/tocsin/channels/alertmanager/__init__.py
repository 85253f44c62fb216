"""An output to Alertmanager: sends what fires now, again and again, as Prometheus does.

Alertmanager takes the `endsAt` of an alert as "fires until then unless it is sent again", so what is no longer sent
ends by itself.

Reading order: `settings`, `alerts` (what is sent), `channel` (requests and answers).
"""

import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tocsin.channels.alertmanager.channel import Alertmanager
from tocsin.channels.alertmanager.settings import Config, Options
from tocsin.errors import ConfigError, Problem

__all__ = ["Alertmanager", "Config", "Options", "build"]

_UNUSABLE = "use PEM files, and the key of the certificate without a password"


def build(
    name: str, config: Config, routes: Mapping[str, Options], *, now: Callable[[], float] = time.time
) -> Alertmanager:
    """Make the output. `now`: wall-clock seconds, for dates in `Retry-After`. Raises ConfigError for certificates that
    cannot be used."""
    for key, path in (("tls_ca", config.tls_ca), ("tls_cert", config.tls_cert), ("tls_key", config.tls_key)):
        if path is not None and not Path(path).is_file():
            raise ConfigError(
                [Problem(code="missing_file", message=f"there is no file {path}", path=f"channels.{name}.{key}")]
            )
    try:
        return Alertmanager(name, config, routes, now)
    except OSError as error:
        why = _UNUSABLE if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            [Problem(code="certificates", message=f"the certificates cannot be used: {why}", path=f"channels.{name}")]
        ) from None

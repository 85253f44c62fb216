"""What the processes of one ledger must have in common: a hash of each part of the configuration."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from hashlib import sha256
from typing import Any

from pydantic import SecretBytes, SecretStr

from tocsin.config.resolved import Config
from tocsin.postgres.settings import parsed
from tocsin.settings import Settings

_LOCAL = frozenset(
    {
        *("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "tls_ca", "tls_cert", "tls_key"),
        *("password", "sslpassword", "passfile", "servicefile"),
        *("consumer_tag", "application_name", "fallback_application_name"),
    }
)
"""Settings in which processes of one ledger may differ: files of their machine, logins, how servers name them."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_POSTGRES = re.compile(r"postgres(ql)?://|.*\b(host|hostaddr|dbname|service)\s*=", re.DOTALL)
_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@|\b(?i:password)=[^&#\s]*")


def parts(config: Config) -> dict[str, str]:
    """A hash by part (`alerts.late`, `channels.hook.url`): what an alert is, where its rows come from, and where its
    notifications go.

    Passwords and keys do not count, as each process reads a renewed one in its own time. Addresses do, also those that
    are secrets: two installations that share a ledger by mistake differ in them.
    """
    found: dict[str, object] = {f"alerts.{name}": dataclasses.asdict(alert) for name, alert in config.alerts.items()}
    for name, source in config.sources.items():
        found |= _settings(f"sources.{name}", source.kind, source.settings)
    for name, channel in config.channels.items():
        found |= _settings(f"channels.{name}", channel.kind, channel.settings)
        found[f"channels.{name}.alerts"] = channel.routes
    return {name: sha256(json.dumps(_plain(value)).encode()).hexdigest()[:12] for name, value in found.items()}


def digest(config: Config) -> str:
    """A hash of all parts: equal for configurations that run the same alerts."""
    return sha256(json.dumps(parts(config), sort_keys=True).encode()).hexdigest()[:16]


def _settings(place: str, kind: str, settings: Settings) -> dict[str, object]:
    return {f"{place}.type": kind, **{f"{place}.{name}": value for name, value in _set(settings)}}


def _set(settings: Settings) -> Iterator[tuple[str, object]]:
    """The settings that count and have another value than their default."""
    files = {f"{name}_file" for name in settings.secrets}
    for name, field in type(settings).model_fields.items():
        value = _plain(getattr(settings, name))
        if name not in files | _LOCAL and value != _plain(field.get_default(call_default_factory=True)):
            yield field.alias or name, value


def _plain(value: object) -> Any:
    match value:
        case SecretStr():
            return _address(value.get_secret_value())
        case SecretBytes():
            return None
        case Settings():
            return dict(_set(value))
        case Mapping():
            return {str(key): _plain(one) for key, one in sorted(value.items()) if key not in _LOCAL}
        case set() | frozenset():
            return sorted(map(str, value))
        case list() | tuple():
            return [_plain(one) for one in value]
        case Enum():
            return value.value
        case None | bool() | int() | float():
            return value
    return str(value)


def _address(secret: str) -> object:
    """What of a secret is the address of a server: all but the login."""
    if _POSTGRES.match(secret):
        with suppress(ValueError):
            return _plain(parsed(secret))
    return _LOGIN.sub("", secret) if _URL.match(secret) else None

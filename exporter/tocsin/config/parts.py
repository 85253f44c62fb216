"""What the processes of one ledger must have in common: a hash of each part of the configuration."""

import dataclasses
import json
import re
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from typing import Any

from pydantic import SecretBytes, SecretStr

from tocsin.config.resolved import Config
from tocsin.settings import Settings

_PASSWORD = re.compile(r"(?<=://)[^/?#\s]*@|\bpassword\s*=\s*(?:'(?:\\.|[^'])*'|\S*)")


def parts(config: Config) -> dict[str, str]:
    """A hash by part (`sources.orders`): what an alert is, where its rows come from, and where its notifications go.

    Passwords and keys do not count, as each process reads a renewed one in its own time. Addresses do, also those that
    are secrets: two installations that share a ledger by mistake differ in them.
    """
    found: dict[str, object] = {f"alerts.{name}": dataclasses.asdict(alert) for name, alert in config.alerts.items()}
    found |= {f"sources.{name}": [source.kind, source.settings] for name, source in config.sources.items()}
    for name, channel in config.channels.items():
        found[f"channels.{name}"] = [channel.kind, channel.settings, channel.routes]
    return {name: sha256(json.dumps(_plain(value)).encode()).hexdigest()[:12] for name, value in found.items()}


def _plain(value: object) -> Any:
    match value:
        case SecretStr():
            return _address(value.get_secret_value())
        case SecretBytes():
            return None
        case Settings():
            files = {f"{name}_file" for name in value.secrets}
            return {name: _plain(one) for name, one in value if name not in files}
        case Mapping():
            return {str(key): _plain(one) for key, one in sorted(value.items())}
        case set() | frozenset():
            return sorted(map(str, value))
        case list() | tuple():
            return [_plain(one) for one in value]
        case Enum():
            return value.value
        case None | bool() | int() | float():
            return value
    return str(value)


def _address(text: str) -> str | None:
    return _PASSWORD.sub("", text) if "://" in text or "host" in text else None

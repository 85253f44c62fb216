"""Configurations for `tocsin run` on the load relations of the double, whose rows have the time of their change."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def configuration(
    directory: Path, dsn: str, channels: Mapping[str, Mapping[str, Any]], notified: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Webhook channels by name, and for each relation the channels that its alert notifies."""
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "ledger.db")},
        "sources": {"mz": {"type": "materialize", "dsn": dsn}},
        "channels": {name: {"type": "webhook", **settings} for name, settings in channels.items()},
        "alerts": {
            relation: {
                "source": "mz",
                "relation": relation,
                "key": ["id"],
                "labels": ["id", "region"],
                "value": "value",
                "notify": list(names),
            }
            for relation, names in notified.items()
        },
    }

"""What would be sent for the rows that are there."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tocsin.alert import RowAlert
from tocsin.app import build
from tocsin.channels.base import Message, Rejected
from tocsin.config import Config
from tocsin.envelope import build as envelope_of
from tocsin.firing import FiringSet
from tocsin.init.facts import Facts
from tocsin.model import Batch, notification_id
from tocsin.pipeline.indexes import firing_rule

MOST = 3
"""Notifications to show of each alert."""


async def previews(config: Config, facts: Mapping[str, Facts]) -> dict[str, list[Any]]:
    """Alert -> the first requests that `tocsin run` would send for these rows. The rows go through a firing set and the
    channel, as in operation, and nothing is sent."""
    channels = {name: build.make_channel(channel) for name, channel in config.channels.items()}
    found: dict[str, list[Any]] = {}
    try:
        for name, of in facts.items():
            for message, channel in _messages(config.row_alerts[name], of):
                request = await asyncio.to_thread(channels[channel].preview, message)
                found.setdefault(name, []).append(_shown(request))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels.values()), return_exceptions=True)
    return found


def _messages(alert: RowAlert, facts: Facts) -> Iterator[tuple[Message, str]]:
    firing = FiringSet(firing_rule(alert, facts.columns))
    now = int(time.time() * 1000)
    updates = [(now, 1, row) for row in facts.rows]
    outcome = firing.apply(Batch(updates=updates, frontier=now + 1, snapshot=now))
    for transition in outcome.transitions[:MOST]:
        for channel in alert.notify:
            id_ = notification_id(transition, channel)
            envelope = envelope_of(transition, id_, build.view(alert))
            yield Message(id=id_, alert=alert.name, kind=transition.kind, envelope=envelope), channel


def _shown(request: Mapping[str, Any] | Rejected) -> Any:
    if isinstance(request, Rejected):
        return {"never sent": f"{request.reason.value}: {request.detail}"}
    return request

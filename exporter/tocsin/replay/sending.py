"""A recording sent to the real channels, in real time or faster, with a ledger and ids of its own."""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tocsin.alert import Alert, RowAlert
from tocsin.app import build
from tocsin.config import Config
from tocsin.ledger import sqlite
from tocsin.ledger.base import Filter, Record
from tocsin.recording.files import Recording
from tocsin.replay.feeds import Feeds, longest_interval, longest_pause, times
from tocsin.simulation.life import Life

_CHECKED_EVERY = 0.2
_PATIENCE = 60.0
"""Seconds beyond the longest `interval` in which what is pending at the end may still be sent."""


def renamed(config: Config, mark: str) -> Config:
    """The configuration with other names of channels, from which other ids follow: the receivers know the ids of the
    live run, and would ignore them."""
    names = {name: f"{name} (replay {mark})" for name in config.channels}
    channels = {names[name]: replace(channel, name=names[name]) for name, channel in config.channels.items()}
    alerts: dict[str, Alert] = {}
    for name, alert in config.alerts.items():
        notify = tuple(names[one] for one in alert.notify)
        if isinstance(alert, RowAlert):
            levels = frozenset(names[one] for one in alert.levels)
            alerts[name] = replace(alert, notify=notify, levels=levels)
        else:
            alerts[name] = replace(alert, notify=notify)
    return replace(config, channels=channels, alerts=alerts)


async def send(config: Config, folder: Path, recording: Recording, speed: float) -> Sequence[Record]:
    """Run a recording against the channels, and return the notifications as they are at the end, oldest first.

    `config`: the alerts that are recorded. `folder`: for the ledger. `speed`: how many times as fast as it was
    recorded; infinite: without waiting.
    """
    config = renamed(config, secrets.token_hex(2))
    feeds = Feeds(config, recording.overview)
    ledger = await asyncio.to_thread(sqlite.open_ledger, folder / "replay.db") if config.needs_ledger else None
    if ledger is not None:
        await feeds.preload(ledger)
    channels = {name: await asyncio.to_thread(build.make_channel, one) for name, one in config.channels.items()}
    ended = asyncio.Event()
    life = Life(config, ledger, channels, feeds.source, wall=time.time, ended=ended.set)
    await life.begin()
    try:
        async with asyncio.timeout(_PATIENCE):
            await feeds.opened()
        began = time.monotonic()
        for at, jump, item in times(recording.items(), recording.overview.start, longest_pause(config)):
            began -= jump / speed
            await asyncio.sleep(max(began + at / speed - time.monotonic(), 0.0))
            life.check()
            feeds.deliver(item)
        if ledger is None:
            return []
        await _sent(ledger, config)
        return [*reversed(await ledger.find(Filter(limit=1_000_000)))]
    finally:
        await life.stop()


async def _sent(ledger: sqlite.SqliteLedger, config: Config) -> None:
    """Wait until nothing is pending."""
    end = time.monotonic() + longest_interval(config) + _PATIENCE
    while time.monotonic() < end:
        await asyncio.sleep(_CHECKED_EVERY)
        if not any(one.pending for one in (await ledger.backlog()).values()):
            return


def summary(records: Sequence[Record]) -> Mapping[tuple[str, str], int]:
    """Count notifications by channel and status."""
    found: dict[tuple[str, str], int] = {}
    for one in records:
        key = one.channel.rpartition(" (replay ")[0], one.status.value
        found[key] = found.get(key, 0) + 1
    return found

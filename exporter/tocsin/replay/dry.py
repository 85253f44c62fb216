"""A recording in virtual time: everything is rendered, and nothing is sent."""

from collections.abc import Callable
from pathlib import Path

from tocsin.config import Config, SourceConfig
from tocsin.ledger import sqlite
from tocsin.recording.files import Recording
from tocsin.replay.feeds import Feeds, longest_interval, longest_pause, times
from tocsin.simulation import virtual
from tocsin.simulation.engine import Simulation
from tocsin.simulation.receivers import Attempt
from tocsin.sources.base import EventSource, Source

_AFTER = 1.0
"""Seconds that go on after the last item and the longest `interval`."""


class _Replay(Simulation):
    """A simulation whose sources are those of a recording."""

    def __init__(self, config: Config, folder: Path, feeds: Feeds, *, start: float) -> None:
        super().__init__(config, folder, start=start)
        self._feeds = feeds

    def _source(self, config: SourceConfig) -> Source | EventSource:
        return self._feeds.source(config)

    async def preload(self) -> None:
        if self.config.needs_ledger:
            ledger = virtual.counted(sqlite.open_ledger(self._file, durable=False, clock=self._wall))
            await self._feeds.preload(ledger)
            await ledger.close()


def dry(
    config: Config,
    folder: Path,
    recording: Recording,
    *,
    show: Callable[[Attempt], None],
    pace: Callable[[float], None] = lambda _: None,
) -> list[str]:
    """Run a recording, and show what would be sent. Returns what is wrong with the alerts at its end.

    `config`: the alerts that are recorded. `folder`: a temporary one. `pace`: called with the seconds of the recording
    that pass next; it may wait.
    """

    async def script() -> list[str]:
        feeds = Feeds(config, recording.overview)
        async with _Replay(config, folder, feeds, start=recording.overview.start) as replay:
            shown = dict.fromkeys(replay.receivers, 0)

            def show_new() -> None:
                new = [one for name, count in shown.items() for one in replay.receivers[name].attempts[count:]]
                for attempt in sorted(new, key=lambda one: one.at):
                    shown[attempt.channel] += 1
                    show(attempt)

            await replay.preload()
            await replay.begin()
            for at, jump, item in times(recording.items(), recording.overview.start, longest_pause(config)):
                pace(at - jump - replay.now)
                await replay.until(at - jump)
                show_new()
                replay.set_clock_forward(jump)
                feeds.deliver(item)
                await replay.settle()
                show_new()
            await replay.until(replay.now + longest_interval(config) + _AFTER)
            await replay.settle()
            show_new()
            return replay.faults()

    return virtual.run(script())

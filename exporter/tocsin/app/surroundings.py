"""What `Explainer` asks besides the ledger: the running process, or nothing but the configuration."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from tocsin.alert import Alert, RowAlert
from tocsin.app import build
from tocsin.app.explaining import Rows
from tocsin.app.runtime import Runtime
from tocsin.channels.base import Output
from tocsin.config import Config
from tocsin.dispatch import Dispatcher
from tocsin.dispatch.level import LevelLoop
from tocsin.errors import ConfigError
from tocsin.exposition import AlertStatus
from tocsin.firing import Firing
from tocsin.ledger.base import Ledger

_TRIES, _PAUSE = 50, 0.05
"""How often the rows are read while a large batch is applied, and the seconds in between."""


class RunningProcess:
    """See `tocsin.app.explaining.Surroundings`."""

    running = True

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def rows(self, alert: Alert) -> Rows | None:
        pipeline = self._runtime.inputs.rows(alert.name)
        for _ in range(_TRIES):
            if pipeline is None or not pipeline.columns:
                return None
            try:
                rows = Rows(columns=pipeline.columns, frontier=pipeline.frontier, firings=[*pipeline.firings()])
            except RuntimeError:  # a thread is applying a large batch
                await asyncio.sleep(_PAUSE)
            else:
                return replace(rows, firings=await self._as_led(alert.name, rows.firings))
        return None

    async def _as_led(self, alert: str, firings: Sequence[Firing]) -> Sequence[Firing]:
        """Return rows with the episodes of the process that leads: a follower reads a polled source at other times, and
        the notifications are of the leader's episodes. Raises LedgerError."""
        if self._runtime.ledger is None or not self.leader(alert):
            return firings
        stored = await self._runtime.ledger.load(alert)
        led = {} if stored is None else {one.fingerprint: one for one in stored.firings}
        return [replace(led.get(one.fingerprint, one), row=one.row, counts=one.counts) for one in firings]

    def status(self, alert: Alert) -> AlertStatus | None:
        return self._runtime.inputs.status(alert)

    def leader(self, alert: str) -> str:
        sharing = None if self._runtime.ledger is None else self._runtime.ledger.sharing
        others = () if sharing is None else (one for one in sharing.instances if one.epoch != sharing.epoch)
        return next((f"{one.name} ({one.address})" for one in others if alert in one.leads), "")

    def dispatcher(self, channel: str) -> Dispatcher | LevelLoop | None:
        return self._runtime.outputs.running.get(channel)

    async def output(self, channel: str) -> Output | str:
        running = self.dispatcher(channel)
        if running is None:
            return "the channel is starting"
        return running.channel if isinstance(running, Dispatcher) else running.level


class LedgerAlone:
    """See `tocsin.app.explaining.Surroundings`. Channels are built, and connect to nothing."""

    running = False

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self._config = config
        self._ledger = ledger
        self._built: dict[str, Output | str] = {}

    async def rows(self, alert: Alert) -> Rows | None:
        if not (isinstance(alert, RowAlert) and (stored := await self._ledger.load(alert.name))):
            return None
        return Rows(columns=stored.columns, frontier=stored.frontier, firings=stored.firings)

    def status(self, alert: Alert) -> AlertStatus | None:  # noqa: ARG002 - no process was asked
        return None

    def leader(self, alert: str) -> str:  # noqa: ARG002 - as above
        return ""

    def dispatcher(self, channel: str) -> Dispatcher | LevelLoop | None:  # noqa: ARG002 - as above
        return None

    async def output(self, channel: str) -> Output | str:
        if channel not in self._built:
            try:
                self._built[channel] = await asyncio.to_thread(build.make_channel, self._config.channels[channel])
            except ConfigError as error:
                self._built[channel] = f"the channel cannot be built: {error.problems[0].message}"
        return self._built[channel]

    async def close(self) -> None:
        """Close the channels."""
        for output in self._built.values():
            if not isinstance(output, str):
                await output.close()

"""The running objects of one process: inputs, ledger, outputs and maintenance; started, replaced and stopped as a
whole."""

import asyncio
import contextlib
import math
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import structlog

from tocsin import repeats
from tocsin.app import build
from tocsin.app.inputs import Inputs
from tocsin.app.ledgers import opened
from tocsin.app.outputs import Outputs, channel_state
from tocsin.config import Config
from tocsin.config.parts import parts
from tocsin.config.sections import LedgerSettings
from tocsin.errors import LedgerError, LedgerReason
from tocsin.exposition import AlertStatus, ChannelState, Metrics, Page, State
from tocsin.faults import unexpected
from tocsin.ledger.base import Backlog, Ledger
from tocsin.pipeline.feed import Feed
from tocsin.pipeline.tap import Tap
from tocsin.repeats import Repeats
from tocsin.silences import State as SilenceState
from tocsin.values import utc_text

log = structlog.get_logger(__name__)

_MAINTENANCE_EVERY = 1.0
_PRUNE_EVERY = 60.0
_PRUNE_STEP = 500


class Runtime:
    """The objects of one process. `apply` brings them to a configuration, and keeps what did not change."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        ending: asyncio.Event | None = None,
    ) -> None:
        self._tasks = tasks
        self.page = Page(metrics)
        self.feed = Feed()
        self.tap = Tap()
        self.metrics = metrics
        self.outputs = Outputs(tasks, metrics, clock=clock)
        self.config: Config | None = None
        self.configured_at: float | None = None
        """Since when it runs this configuration: wall-clock seconds."""
        self.refused_configuration: Sequence[str] = ()
        """Why the last reload was refused, one sentence each; empty if it was not."""
        self.ledger: Ledger | None = None
        self.ledger_settings: LedgerSettings | None = None
        """Those of the open ledger."""
        self.ledger_fault = ""
        self._not_kept_up: LedgerError | None = None
        """Why the last maintenance of the ledger failed."""
        self.address = ""
        """Where it listens."""
        self.ending = ending or asyncio.Event()
        self.stall = ""
        self.inputs = Inputs(
            tasks, metrics, self.page, self.feed, self.outputs, self._stalled, tap=self.tap, clock=clock
        )
        self._clock = clock
        self._changing = asyncio.Lock()
        """Held while something is started or stopped."""
        self._following: asyncio.Task[None] | None = None
        self._ended = 0
        self._count_at = -math.inf
        self._undeleted = Repeats(log, "old notifications cannot be deleted")
        self._silenced: AbstractSet[str] = frozenset()
        """The silences that were active when they were last followed."""
        self._fenced = False
        """Whether another process has taken over from this one."""
        metrics.removed_channels = self._removed_states
        metrics.silences = self._silences

    @property
    def alerts(self) -> list[AlertStatus]:
        """The status of every running alert, in the order of the configuration."""
        alerts = self.config.alerts.values() if self.config else ()
        return [status for alert in alerts if (status := self.inputs.status(alert)) is not None]

    @property
    def removed(self) -> dict[str, Backlog]:
        """What the outbox holds for channels that are no longer configured, by name."""
        if self.config is None:
            return {}
        return {name: left for name, left in sorted(self.outputs.backlog.items()) if name not in self.config.channels}

    @property
    def refused(self) -> bool:
        """Whether something does not work, for which credentials may be the reason."""
        channels = self.outputs.running.values()
        # A source that works has a message when what was sent to it is refused.
        return not all(one.delivers for one in channels) or any(
            one.state is not State.UP or one.message for one in self.alerts
        )

    async def open_ledger(self, wanted: Callable[[], Config]) -> None:
        """Open the ledger if this configuration needs one. In PostgreSQL that waits while other processes run another
        configuration than the one that is `wanted` then. Raises LedgerError."""
        config = wanted()
        if self.ledger is None and config.needs_ledger:
            observe = self.metrics.ledger_commit_seconds.observe
            self.ledger = await opened(
                config.ledger,
                configuration=lambda: parts(wanted()),
                address=_seen_by_others(self.address),
                waiting=self._waits,
                observe=observe,
            )
            self._ledger_works()
            self.ledger_settings = config.ledger
            self._following = self._tasks.create_task(self._follow(self.ledger), name="sharing")

    async def apply(self, config: Config) -> bool:
        """Run this configuration. Returns False, with nothing changed, where other processes of the ledger run the
        former one. Raises LedgerError if it needs a ledger that cannot be opened."""
        await self.open_ledger(lambda: config)
        async with self._changing:
            return await self._apply(config)

    async def _apply(self, config: Config) -> bool:
        since = self._clock() if self.ledger is None else self.ledger.now()
        if self.config is None:
            await self._begin(config)
            # Channels may take a second to import; alerts start before that. Dispatchers find in the ledger what is
            # committed meanwhile.
            new = await self.outputs.built(config)
        else:
            # Channels are built before anything is stopped: a defect in one changes nothing.
            new = await self.outputs.built(config)
            if self.ledger is not None and not await self.ledger.sharing.change(parts(config)):
                return False
            await self.inputs.stop_outdated(config, self._leads)
            await self.outputs.stop_outdated(config, new)
            # A pipeline that was stopped between commit and offer has notifications in the ledger only.
            self.outputs.rescan()
            self._forget_metrics(self.config, config)
            await self._begin(config)
        if self.ledger is not None:
            await self._dead_letter_unrouted(self.ledger, config)
        self.outputs.start(config, new, self.ledger, self.inputs.current, since)
        return True

    async def _begin(self, config: Config) -> None:
        self.config, self.configured_at = config, self._clock()
        if self.ledger is not None:
            try:
                await self.ledger.sharing.want(config.row_alerts, config.channels)
            except LedgerError as error:  # a meeting that succeeds later does it
                self._ledger_failed(error)
        await self.inputs.update(config, self.ledger, self._leads)

    # With other processes.

    @property
    def _leads(self) -> AbstractSet[str]:
        """The alerts on rows that this process leads, and keeps."""
        if self.ledger is not None:
            return self.ledger.sharing.leads - self.ledger.sharing.gives
        return frozenset(self.config.row_alerts if self.config else ())

    async def _follow(self, ledger: Ledger) -> None:
        """Lead what this process is to lead, and have the channels send what others left, until cancelled."""
        while True:
            await ledger.sharing.changed()
            async with self._changing:
                try:
                    if self.config is not None:
                        await self._share(ledger, self.config)
                except LedgerError as error:
                    self._ledger_failed(error)

    async def _share(self, ledger: Ledger, config: Config) -> None:
        sharing = ledger.sharing
        leads, gives = self._leads, sharing.gives
        if leads != self.inputs.leads:
            await self.inputs.update(config, ledger, leads)
        if gives:
            await sharing.hand_over(gives)
        if sharing.ended != self._ended:
            self._ended = sharing.ended
            self.outputs.inherit()
        self.outputs.hold(sharing.holds)
        self.outputs.wake(sharing.waiting)

    def _forget_metrics(self, before: Config, now: Config) -> None:
        # Those that stay keep their counters.
        for name in before.alerts.keys() - now.alerts.keys():
            self.metrics.forget("alert", name)
        for name in before.sources.keys() - now.sources.keys():
            self.metrics.forget("source", name)
        for name in before.channels.keys() - now.channels.keys():
            self.metrics.forget("channel", name)

    def _removed_states(self) -> Mapping[str, ChannelState]:
        return {name: channel_state(left) for name, left in self.removed.items()}

    def _silences(self) -> Mapping[str, int]:
        if (ledger := self.ledger) is None:
            return {}
        states = [one.state(ledger.now()) for one in ledger.silences.all]
        return {state: states.count(state) for state in (SilenceState.ACTIVE, SilenceState.PENDING)}

    async def _dead_letter_unrouted(self, ledger: Ledger, config: Config) -> None:
        try:
            # A level output has no outbox: pending notifications under its name are of a channel that it replaced.
            with_outbox = [name for name, channel in config.channels.items() if not build.is_level(channel)]
            dead = await ledger.dead_letter_unrouted(with_outbox)
        except LedgerError as error:
            # It can wait for the next start; the channels cannot.
            self._ledger_failed(error)
            return
        if dead:
            log.warning("notifications of removed channels became dead letters", notifications=dead)

    def _stalled(self, why: str) -> None:
        self.stall = why
        self.ending.set()

    async def stop(self) -> None:
        """Stop in order: inputs, then outputs after they sent what is ready, then the ledger. Nothing is sent
        any more without the ledger."""
        await self.suspend()
        self.feed.close()
        self.tap.close()
        repeats.flush()

    async def suspend(self) -> None:
        """Stop as at the end, to begin again later."""
        if self._following is not None:
            async with self._changing:  # a pipeline that it is just stopping or starting is among those that stop below
                self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self.outputs.finish_levels()
        await self.inputs.stop()
        await self._stop_sending()
        self.config = None
        await self.release()

    async def release(self) -> None:
        """Close the ledger, if it is open."""
        ledger, self.ledger = self.ledger, None
        if ledger is not None:
            await ledger.close()

    async def _stop_sending(self) -> None:
        sharing = None if self.ledger is None else self.ledger.sharing
        if sharing is not None and not self._fenced:
            with contextlib.suppress(LedgerError):  # then others take the alerts when the lease is over
                await sharing.resign()
        if self._fenced:
            await self.outputs.abandon()
        elif sharing is not None and any(one.epoch != sharing.epoch and not one.stops for one in sharing.instances):
            await self.outputs.finish()
        else:
            await self.outputs.drain()

    async def run_maintenance(self) -> None:
        """Check the ledger every second, and delete old notifications every minute, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._check_ledger(), name="check of the ledger")
            tasks.create_task(self._keep_up(), name="maintenance of the ledger")
            tasks.create_task(self._keep_history(), name="history")

    async def _check_ledger(self) -> None:
        while True:
            ledger = self.ledger
            if ledger is None:
                self.metrics.ledger_up.set(not self.ledger_fault)  # none is needed, or it is waited for
            else:
                failed = ledger.fault or self._not_kept_up
                self._ledger_works() if failed is None else self._ledger_failed(failed)
            repeats.report()
            await asyncio.sleep(_MAINTENANCE_EVERY)

    # Apart from the check: a transaction that does not end would hold up what reports it.

    async def _keep_up(self) -> None:
        while True:
            if (ledger := self.ledger) is not None:
                failed = await self._failure(ledger)
                # It may have been closed meanwhile, to wait for another configuration.
                self._not_kept_up = failed if ledger is self.ledger else None
            await asyncio.sleep(_MAINTENANCE_EVERY)

    async def _failure(self, ledger: Ledger) -> LedgerError | None:
        try:
            await self._maintain(ledger)
        except LedgerError as error:
            return error
        except Exception as error:
            log.debug("unexpected exception", exc_info=error)
            return LedgerError(unexpected(error), LedgerReason.FAILED)
        return None

    async def _maintain(self, ledger: Ledger) -> None:
        if (began := time.monotonic()) >= self._count_at:
            self.outputs.backlog = await ledger.backlog()
            # A second of work for every half million that wait for a dead channel: at most a tenth of the time.
            self._count_at = time.monotonic() + 9 * (time.monotonic() - began)
        if await ledger.changed_elsewhere():
            log.info("the outbox may have been changed by another process; reading it again")
            self.outputs.rescan()
        await self._follow_silences(ledger)

    async def _follow_silences(self, ledger: Ledger) -> None:
        """Announce the silences that are active, each once, and close those whose end has come."""
        active = {one.id: one for one in ledger.silences.active(ledger.now())}
        for silence in (one for id_, one in active.items() if id_ not in self._silenced):
            log.info(
                "silence active",
                silence=silence.id,
                matchers=str(silence.matchers),
                until=utc_text(silence.ends_at),
                reason=silence.reason,
                by=silence.by,
            )
        self._silenced = active.keys()
        for silence in await self.outputs.close_silences(ledger):
            log.info(
                "silence ended",
                silence=silence.id,
                matchers=str(silence.matchers),
                reason=silence.reason,
                released=silence.released,
                dropped=silence.dropped,
            )

    async def _keep_history(self) -> None:
        while True:
            wait = _MAINTENANCE_EVERY
            if (ledger := self.ledger) is not None and self.config is not None and ledger.sharing.first:
                try:
                    before = ledger.now() - self.config.ledger.history
                    # In small steps, so that batches do not wait long.
                    while await ledger.prune(before, _PRUNE_STEP) == _PRUNE_STEP:
                        pass
                    wait = _PRUNE_EVERY
                except Exception as error:
                    log.debug("unexpected exception", exc_info=error)
                    why = str(error) if isinstance(error, LedgerError) else unexpected(error)
                    self._undeleted.add(why, error=why)
            await asyncio.sleep(wait)

    def _ledger_failed(self, error: LedgerError) -> None:
        if self.ledger_fault != str(error):
            log.error("the ledger cannot be used", error=str(error), reason=error.reason)
        self.ledger_fault = str(error)
        if error.reason is LedgerReason.FENCED:
            self._fenced = True
            self._stalled(str(error))
        self.metrics.ledger_up.set(0)

    def _waits(self, why: str | LedgerError) -> None:
        text = f"standing by: {why}"
        if self.ledger_fault != text:
            log.info("standing by", listen=self.address, why=str(why))
        self.ledger_fault = text

    def _ledger_works(self) -> None:
        if self.ledger_fault:
            log.info("the ledger works again")
        self.ledger_fault = ""
        self.metrics.ledger_up.set(1)


def _seen_by_others(address: str) -> str:
    """Where other machines reach this process: by the name of its machine, if it listens on every interface."""
    return re.sub(r"(?<=://)(0\.0\.0\.0|\[::\])(?=:)", lambda _: socket.gethostname(), address)

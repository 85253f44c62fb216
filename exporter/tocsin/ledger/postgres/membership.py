"""This process among those of its ledger. See `tocsin.ledger.sharing.Sharing`."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

import psycopg
import structlog
from psycopg import errors

from tocsin.errors import LedgerError, LedgerReason
from tocsin.faults import unexpected
from tocsin.ledger.postgres.connection import LedgerServer, Link, begin, ledger_error, sessions_of, sessions_of_any
from tocsin.ledger.postgres.instances import Member, Met, change, fence, hand_over, meet, resign
from tocsin.ledger.postgres.transaction import Job, in_one, plain
from tocsin.ledger.sharing import Held, Instance, pause
from tocsin.postgres import PgConnection

T = TypeVar("T")
log = structlog.get_logger(__name__)

_HELD_UP = (
    "the server answers, but transactions do not end: its synchronous standby is away, its disk does not answer, or"
    " another session holds a lock"
)


class Membership:
    """Meets the others a few times in each lease, on its own connection: a large batch may take longer than that."""

    def __init__(
        self,
        server: LedgerServer,
        member: Member,
        met: Callable[[LedgerError | None], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`met` is called after each attempt to meet the others, with why it failed, if it did."""
        self.member = member
        self.instances: Sequence[Instance] = ()
        self.leads: AbstractSet[str] = frozenset()
        self.gives: AbstractSet[str] = frozenset()
        self.waiting: AbstractSet[str] = frozenset()
        self.holds: Mapping[str, Held] = {}
        self.ended = 0
        self._server = server
        self._report = met
        self._monotonic = monotonic
        sessions = sessions_of(server, member.epoch, "meeting")
        self._link = Link(server, sessions=sessions)
        # A meeting that is held up ends on the server, too, or one after another would wait there.
        self._begin = begin(server.model_copy(update={"timeout": server.connect_timeout}), sessions)
        self._to_end = sessions_of_any(server)
        self._wanted: frozenset[str] = frozenset()
        self._channels: tuple[str, ...] = ()
        self._met = Met((), frozenset(), frozenset(), frozenset(), {}, ())
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._in_contact_since = self._renewed_at = monotonic()
        self._beating = asyncio.create_task(self._beat())

    @property
    def epoch(self) -> int:
        return self.member.epoch

    @property
    def valid(self) -> bool:
        return self._monotonic() < self._renewed_at + self.member.lease

    @property
    def first(self) -> bool:
        return bool(self.instances) and self.instances[0].epoch == self.member.epoch

    async def want(self, alerts: Collection[str], channels: Collection[str]) -> None:
        self._wanted, self._channels = frozenset(alerts), tuple(channels)
        await self._meet()

    async def change(self, configuration: Mapping[str, str]) -> bool:
        return await self._run(change(self.member, configuration))

    async def hand_over(self, alerts: Collection[str]) -> None:
        async with self._lock:  # a meeting that began before would lead them again
            await self._in_transaction(plain(lambda db: hand_over(db, self.member, alerts)))
            self.leads, self.gives = self.leads - {*alerts}, self.gives - {*alerts}

    async def resign(self) -> None:
        async with self._lock:
            await self._in_transaction(plain(lambda db: resign(db, self.member)))
            self.leads = self.gives = frozenset()

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def close(self) -> None:
        """Stop meeting the others."""
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        await self._link.close()

    async def _beat(self) -> None:
        left: Sequence[float] = ()
        while True:
            await asyncio.sleep(pause(self.member.lease, left))
            left = ()
            try:
                await self._meet()
            except LedgerError as error:
                self._report(error)
            except Exception as error:
                log.debug("unexpected exception", exc_info=error)
                self._report(LedgerError(f"{self._server.display}: {unexpected(error)}", LedgerReason.FAILED))
            else:
                self._report(None)
                left = self._met.left

    async def _meet(self) -> None:
        async with self._lock:
            now = self._monotonic()
            # Who could not reach the server for a while gives the others the time to come back, too.
            if not self.valid:
                self._in_contact_since = now
            end = self._to_end if now - self._in_contact_since > self.member.lease else ()
            channels = self._channels if len(self.instances) > 1 else ()
            met = await self._in_transaction(meet(self.member, self._wanted, channels, end=end))
            self._renewed_at = max(self._renewed_at, now)
            self._learned(met)

    def _learned(self, met: Met) -> None:
        before = self._met
        gone = {one.epoch for one in before.instances} - {one.epoch for one in met.instances}
        self.ended += bool(gone)
        self._met = met
        self.instances, self.leads, self.gives, self.waiting, self.holds, _ = met
        # Each meeting is news while something waits: a dispatcher may have room by now, or an alert may not have been
        # handed over because the ledger failed.
        if met._replace(left=before.left) != before or met.waiting or met.gives:
            self._changed.set()

    async def _run(self, job: Job[T]) -> T:
        async with self._lock:
            return await self._in_transaction(job)

    async def _in_transaction(self, job: Job[T]) -> T:
        answered = False

        async def work(connection: PgConnection) -> T:
            nonlocal answered
            await connection.execute("SELECT")
            answered = True
            return await in_one(connection, self._begin, job, lambda db: fence(db, self.member))

        try:
            return await self._link.run(self._server.connect_timeout, work)
        except (psycopg.Error, OSError) as error:
            if answered and isinstance(error, (TimeoutError, errors.QueryCanceled)):
                raise LedgerError(f"{self._server.display}: {_HELD_UP}", LedgerReason.FAILED) from None
            raise ledger_error(error, self._server) from None

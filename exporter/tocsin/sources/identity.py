"""Notices when the names in a Materialize subscription come to refer to other objects.

A running SUBSCRIBE reads the objects that its names referred to when it began. After a rename, a swap of schemas or a
swap of clusters it goes on with those, and nothing in the stream says so. So one connection per source asks again and
again what the names of every running subscription refer to.

It asks with EXPLAIN, which Materialize answers from memory: it waits for no cluster (a lookup in mz_objects waits for
the replica of mz_catalog_server, up to 170 s on a busy server) and needs no privilege on the objects. A plan contains
the ids of objects. `ALTER MATERIALIZED VIEW ... APPLY REPLACEMENT` gives a view another id, keeps its oid, and running
subscriptions go on with the new contents: then no object has the old id any more. After a rename or a swap the object
with the old id still exists.

Nor does a REVOKE end a running subscription, and EXPLAIN does not notice it. So now and then the connection also reads
no rows of each target, which the server refuses at once where the privilege is gone.

`IdentityCheck._run` connects and checks all subscriptions again and again; `Subscription.check` compares one with what
it was when it began.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import psycopg
import structlog
from psycopg import sql

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Row
from tocsin.sources.server_errors import statement_error
from tocsin.sources.settings import MaterializeConfig
from tocsin.sources.wire import Wire, connect

log = structlog.get_logger(__name__)

_READ_WITHIN = 30.0
"""Seconds from one check of the privileges to the next, at most, unless names are checked less often."""
_READ_EVERY = 30
"""The rounds of checks from one check of the privileges to the next, at most."""

Query: TypeAlias = Callable[[sql.Composable], Awaitable[list[Row]]]
"""Runs a statement. Raises psycopg.Error."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the names in a subscription refer to at one moment."""

    objects: tuple[str, ...]
    """Ids such as `u7`, in the order of the plan, so that two objects that swap their names are noticed."""
    cluster: str
    """Id and name of the cluster that the session's setting names, as JSON."""


async def identity(query: Query, target: sql.Composable) -> Identity:
    """What the names in `target` (a relation, or a query in parentheses) refer to now.

    Raises psycopg.Error, and ValueError, LookupError or TypeError for a plan that cannot be read.
    """
    # Not `SELECT 1`: a query without a function runs on mz_catalog_server, whatever the session's cluster is.
    insights = await _plan(query, sql.SQL("EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1 + 1"))
    if not isinstance(insights, dict):
        raise TypeError("not an object")
    cluster = json.dumps(insights["cluster"], sort_keys=True)
    return Identity(objects=await _objects(query, target), cluster=cluster)


async def read_refused(query: Query, target: sql.Composable, server: str) -> str:
    """Why the role may not read `target`, or use the cluster; empty if it may. Raises psycopg.Error."""
    try:
        await query(sql.SQL("SELECT * FROM {} LIMIT 0").format(target))
    except psycopg.errors.InsufficientPrivilege as error:
        return str(statement_error(error, server))
    return ""


async def exists(query: Query, object_id: str) -> bool:
    """Whether an object has this id, whatever its name is. Raises as `identity` does."""
    # The server wants a name with a schema here, and accepts any.
    target = sql.SQL("[{} AS {}]").format(sql.SQL(object_id), sql.Identifier("any", "name"))
    try:
        await _objects(query, target)
    except psycopg.errors.InsufficientPrivilege:
        return True  # in a schema that the role may not use
    except psycopg.DatabaseError as error:
        # The server's own words: the SQLSTATE is XX000, as for most of its errors.
        if (error.diag.message_primary or "").startswith("invalid id "):
            return False
        raise
    return True


async def _objects(query: Query, target: sql.Composable) -> tuple[str, ...]:
    plan = await _plan(query, sql.SQL("EXPLAIN RAW PLAN AS JSON FOR SELECT * FROM {}").format(target))
    return tuple(object_ids(plan))


async def _plan(query: Query, statement: sql.Composable) -> object:
    rows = await query(statement)
    return json.loads(rows[0][0] or "null")


def object_ids(plan: object) -> Iterator[str]:
    """The ids of objects in a plan: `{"Get": {"id": {"Global": {"User": 7}}}}` is `u7`."""
    if isinstance(plan, dict):
        found = plan.get("Global")
        if isinstance(found, dict) and len(found) == 1:
            ((kind, number),) = found.items()
            yield f"{kind[:1].lower()}{int(number)}"
        for value in plan.values():
            yield from object_ids(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from object_ids(value)


@dataclass(slots=True, kw_only=True, eq=False)
class Subscription:
    """A running subscription whose names are checked."""

    target: sql.Composable
    known: Identity | None
    """What the names referred to before it began; None: not known."""
    interrupt: Callable[[SourceError], None]
    """Ends the subscription with an error."""
    checked: Callable[[str], None] = lambda _: None
    """Called after each check with the reason why it failed, or an empty text."""
    refused: str = ""
    """Why it could not be started again: a privilege was revoked. Empty: it could be."""
    _verified: set[str] = field(default_factory=set)
    """Ids that were seen to be those of objects, so that it can be seen when an object is gone."""

    async def check(self, query: Query, server: str) -> None:
        """Compare what the names refer to now with what the subscription reads. Raises as `identity` does."""
        now = await identity(query, self.target)
        if self.known is None:
            self._replaced(server, "it is not known what the names referred to when the subscription began")
        elif now.cluster != self.known.cluster:
            self._replaced(server, "the name of the cluster now refers to another cluster")
        elif await self._same_objects(self.known.objects, now.objects, query):
            self.known = now
        else:
            self._replaced(server, "the name now refers to another object")

    async def _same_objects(self, before: tuple[str, ...], now: tuple[str, ...], query: Query) -> bool:
        if len(before) != len(now):
            return False
        for old, new in zip(before, now, strict=True):
            # Other id, and the old one is gone: a replacement was applied. Had the object been dropped instead, the
            # server would end the subscription itself.
            if old != new and (old not in self._verified or await exists(query, old)):
                return False
        for one in {*now} - self._verified:
            if await exists(query, one):
                self._verified.add(one)
        return True

    def refuse(self, why: str) -> None:
        """Keep why it could not be started again. Logged when that changes."""
        if why and why != self.refused:
            log.warning("the subscription could not be started again", error=why)
        self.refused = why

    def _replaced(self, server: str, why: str) -> None:
        self.interrupt(SourceError(f"{why}; subscribing again", SourceReason.REPLACED, server=server))


class IdentityCheck:
    """Checks the names of all running subscriptions of one source, over one connection, while there are any."""

    def __init__(self, source: str, config: MaterializeConfig) -> None:
        self._source = source
        self._config = config
        self._running: set[Subscription] = set()
        self._new: asyncio.Queue[Subscription] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._failure = ""
        self._rounds = 0

    @asynccontextmanager
    async def checking(self, subscription: Subscription) -> AsyncIterator[None]:
        """Check a subscription for the length of the block. Delays nothing."""
        if not self._config.identity_check:
            yield
            return
        self._running.add(subscription)
        self._new.put_nowait(subscription)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"identity check of {self._source}")
        try:
            yield
        finally:
            self._running.discard(subscription)
            if not self._running and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            worked = False
            try:
                async with connect(self._config) as wire:
                    while True:
                        pause = await self._check_all(wire)
                        worked = True
                        await self._check_new(wire, pause)
            except (SourceError, psycopg.Error, TimeoutError, OSError) as error:
                # A lost connection is not a failed check, unless the next one fails too.
                if not (worked and isinstance(error, psycopg.Error)):
                    self._failed(self._running, str(error) or f"{self._config.display}: no answer")
            except Exception as error:  # a defect must not end the checks in silence
                log.exception("defect in the check of names", source=self._source)
                self._failed(self._running, repr(error))
            await asyncio.sleep(self._config.identity_check)

    async def _check_all(self, wire: Wire) -> float:
        """Check every subscription once. Returns how long to pause. Raises an error only for a useless connection."""
        clock = asyncio.get_running_loop().time
        began = clock()
        answers: dict[str, list[Row]] = {}

        async def query(statement: sql.Composable) -> list[Row]:
            """Ask each question once, whatever the number of alerts."""
            text = statement.as_string(None)
            if text not in answers:
                answers[text] = await wire.query(statement)
            return answers[text]

        while not self._new.empty():
            self._new.get_nowait()
        reads = self._rounds % rounds_per_read(self._config.identity_check) == 0
        self._rounds += 1
        succeeded = [await self._check(query, subscription, reads=reads) for subscription in list(self._running)]
        if all(succeeded):
            if self._failure:
                log.info("names can be checked again", source=self._source)
            self._failure = ""
        # A slow server is left alone for as long as it took to answer.
        return max(self._config.identity_check, clock() - began)

    async def _check_new(self, wire: Wire, seconds: float) -> None:
        """For so long, check new subscriptions at once: their ids must be known before they change."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while (left := end - clock()) > 0:
            try:
                async with asyncio.timeout(left):
                    subscription = await self._new.get()
            except TimeoutError:
                return
            if subscription in self._running:
                await self._check(wire.query, subscription)

    async def _check(self, query: Query, subscription: Subscription, *, reads: bool = False) -> bool:
        """Check one subscription, and with `reads` its privileges. Returns whether the check succeeded."""
        server = self._config.display
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                await subscription.check(query, server)
                if reads:
                    subscription.refuse(await read_refused(query, subscription.target, server))
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            found = statement_error(error, server)
            if found.reason is not SourceReason.MISSING:
                self._failed([subscription], str(found))
                return False
            # The stream's own end, which says the same of a dropped object, may come a moment later.
            gone = f"{found.message}: it was dropped or renamed"
            fix = "create it again, or change the alert"
            subscription.interrupt(SourceError(gone, SourceReason.DROPPED, server=server, fix=fix))
        except (ValueError, LookupError, TypeError) as error:
            self._failed([subscription], f"{server}: the plan of the names cannot be read: {error!r}")
            return False
        if subscription.refused:
            subscription.checked(f"rows arrive only until the subscription ends: {subscription.refused}")
        else:
            subscription.checked("")
        return True

    def _failed(self, affected: "set[Subscription] | list[Subscription]", why: str) -> None:
        for subscription in list(affected):
            subscription.checked(f"cannot check whether the name still refers to the same object: {why}")
        if affected and not self._failure:
            log.warning("names cannot be checked", source=self._source, error=why)
        self._failure = why


def rounds_per_read(interval: float) -> int:
    """How many rounds of checks, each after `interval` seconds, there are for each check of the privileges."""
    return max(1, min(_READ_EVERY, int(_READ_WITHIN / interval)))

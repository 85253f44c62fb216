"""What the names in a Materialize subscription refer to now.

A running SUBSCRIBE reads the objects that its names referred to when it began. After a rename, a swap of schemas or a
swap of clusters it goes on with those, and nothing in the stream says so. So one connection per source asks, for every
running subscription, what the names refer to now.

The questions are EXPLAIN statements, since Materialize answers them from memory: they wait for no cluster (a lookup in
mz_objects waits for the replica of mz_catalog_server, and took up to 170 s on a busy server) and need no privilege on
the objects. A plan names ids. `ALTER MATERIALIZED VIEW ... APPLY REPLACEMENT` gives a view another id, keeps its oid,
and running subscriptions go on with the new contents: then the old id is gone. After a rename or a swap the object with
the old id still exists.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import structlog
from psycopg import sql

from tocsin.errors import SourceError, SourceReason
from tocsin.sources.settings import MaterializeConfig
from tocsin.sources.wire import Wire, connect, statement_error

log = structlog.get_logger(__name__)

_INVALID_ID = "invalid id "
"""How the server begins to say that no object has an id (XX000, like most of its errors)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the names in a subscription refer to at one moment.

    `objects`: ids such as `u7`, in the order of the plan, so that two objects that swap their names show. `cluster`: id
    and name of the cluster that the session's setting names.
    """

    objects: tuple[str, ...]
    cluster: str


class Answers:
    """What the server answers over one connection in one round of checks. Equal questions are asked once."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._plans: dict[str, object] = {}

    async def identity(self, target: sql.Composable) -> Identity:
        """What the names in `target` (a relation, or a query in parentheses) refer to now. Raises psycopg.Error."""
        return Identity(objects=await self._objects(target), cluster=await self._cluster())

    async def exists(self, object_id: str) -> bool:
        """Whether an object has this id, whatever its name is. Raises psycopg.Error."""
        # The server wants a name with a schema here, and takes any.
        target = sql.SQL("[{} AS {}]").format(sql.SQL(object_id), sql.Identifier("any", "name"))
        try:
            await self._objects(target)
        except psycopg.errors.InsufficientPrivilege:
            return True  # it lies in a schema that is closed to the role
        except psycopg.DatabaseError as error:
            if (error.diag.message_primary or "").startswith(_INVALID_ID):
                return False
            raise
        return True

    async def _objects(self, target: sql.Composable) -> tuple[str, ...]:
        plan = await self._plan(sql.SQL("EXPLAIN RAW PLAN AS JSON FOR SELECT * FROM {}").format(target))
        return tuple(object_ids(plan))

    async def _cluster(self) -> str:
        # Not `SELECT 1`: a query without a function runs on mz_catalog_server, whatever the session's cluster is.
        plan = await self._plan(sql.SQL("EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1 + 1"))
        if not isinstance(plan, dict):
            raise TypeError("no object")
        return json.dumps(plan["cluster"], sort_keys=True)

    async def _plan(self, statement: sql.Composable) -> object:
        text = statement.as_string(None)
        if text not in self._plans:
            rows = await self._wire.query(statement)
            self._plans[text] = json.loads(rows[0][0] or "null")
        return self._plans[text]


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
class Watched:
    """A running subscription whose names are checked.

    `known`: what the names referred to before it began; None: not known. `interrupt` ends the subscription. `report`
    receives the outcome of each check: why it failed, or an empty text.
    """

    target: sql.Composable
    known: Identity | None
    interrupt: Callable[[SourceError], None]
    report: Callable[[str], None] = lambda _: None
    _verified: set[str] = field(default_factory=set)  # ids seen to be those of objects, so that their end can be seen

    async def check(self, answers: Answers, display: str) -> None:
        """Compare what the names refer to now with what the subscription reads. Raises psycopg.Error, ValueError."""
        now = await answers.identity(self.target)
        if self.known is None:
            self._replaced(display, "what the names referred to when the subscription began is not known")
        elif now.cluster != self.known.cluster:
            self._replaced(display, "the name of the cluster now refers to another cluster")
        elif await self._kept(answers, now):
            self.known = now
        else:
            self._replaced(display, "the name now refers to another object")

    async def _kept(self, answers: Answers, now: Identity) -> bool:
        """Whether the subscription still reads what the names refer to."""
        assert self.known is not None
        before = self.known.objects
        if len(before) != len(now.objects):
            return False
        for old, new in zip(before, now.objects, strict=True):
            # Gone, while the subscription goes on: a replacement was applied. If the object was dropped instead, the
            # server ends the subscription itself.
            if old != new and (old not in self._verified or await answers.exists(old)):
                return False
        for one in {*now.objects} - self._verified:
            if await answers.exists(one):
                self._verified.add(one)
        return True

    def _replaced(self, display: str, why: str) -> None:
        self.interrupt(SourceError(f"{display}: {why}; subscribing again", SourceReason.REPLACED))


class IdentityCheck:
    """Checks the names of all running subscriptions of one source, over one connection, while there are any."""

    def __init__(self, source: str, config: MaterializeConfig) -> None:
        self._source = source
        self._config = config
        self._watched: set[Watched] = set()
        self._new: asyncio.Queue[Watched] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._failure = ""

    @asynccontextmanager
    async def watching(self, watched: Watched) -> AsyncIterator[None]:
        """Check a subscription for the length of the block. Returns to the caller at once."""
        if not self._config.identity_check:
            yield
            return
        self._watched.add(watched)
        self._new.put_nowait(watched)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"identity check of {self._source}")
        try:
            yield
        finally:
            self._watched.discard(watched)
            if not self._watched and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            worked = False
            try:
                async with connect(self._config) as wire:
                    while True:
                        pause = await self._round(wire)
                        worked = True
                        await self._check_new(wire, pause)
            except (SourceError, psycopg.Error, TimeoutError, OSError) as error:
                # A connection that worked and is lost is made again first: only if that fails, a check has failed.
                if not (worked and isinstance(error, psycopg.Error)):
                    self._all_failed(str(error) or f"{self._config.display}: the server does not answer")
            except Exception as error:  # a defect must not end the checks in silence
                log.exception("defect in the check of names", source=self._source)
                self._all_failed(repr(error))
            await asyncio.sleep(self._config.identity_check)

    async def _round(self, wire: Wire) -> float:
        """Check all once, and return how long to pause. Raises an error only if the connection is of no use."""
        clock = asyncio.get_running_loop().time
        began = clock()
        answers = Answers(wire)
        while not self._new.empty():
            self._new.get_nowait()
        failures = [await self._check(answers, watched) for watched in list(self._watched)]
        if not any(failures):
            self._works()
        # A slow server is left alone for as long as it took to answer.
        return max(self._config.identity_check, clock() - began)

    async def _check_new(self, wire: Wire, seconds: float) -> None:
        """For so long, check new subscriptions at once: what their ids are has to be known before they change."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while (left := end - clock()) > 0:
            try:
                watched = await asyncio.wait_for(self._new.get(), left)
            except TimeoutError:
                return
            if watched in self._watched:
                await self._check(Answers(wire), watched)

    async def _check(self, answers: Answers, watched: Watched) -> bool:
        """Check one subscription; says whether the check failed."""
        display = self._config.display
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                await watched.check(answers, display)
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            found = statement_error(error, display)
            if found.reason is SourceReason.MISSING:
                # The stream's own end, which says the same of a dropped object, may come a moment later.
                watched.interrupt(SourceError(f"{found}: it was dropped or renamed", SourceReason.DROPPED))
            else:
                self._failed([watched], str(found))
                return True
        except (ValueError, LookupError, TypeError) as error:
            self._failed([watched], f"{display}: the plan of the names cannot be read: {error!r}")
            return True
        watched.report("")
        return False

    def _all_failed(self, why: str) -> None:
        self._failed(list(self._watched), why)

    def _failed(self, affected: list[Watched], why: str) -> None:
        for watched in affected:
            watched.report(why)
        if affected and not self._failure:
            log.warning("names cannot be checked", source=self._source, error=why)
        self._failure = why

    def _works(self) -> None:
        if self._failure:
            log.info("names can be checked again", source=self._source)
        self._failure = ""

"""Parts of the take-over loop: several `tocsin run` of one configuration on one ledger, each behind a proxy of its own
and started again whenever it ends; what is done to them; and what arrives."""

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.killing import Model, moody
from support.postgres import Database
from support.receiver import Answer, Received
from support.tcp_proxy import TcpProxy
from support.tocsin import TocsinProcess, start, write
from tocsin.model import notification_id


class Fault(StrEnum):
    """What is done to a process."""

    KILL = "kill -9"
    STOP = "SIGTERM"
    PAUSE = "SIGSTOP"
    CUT = "cut from the database"
    SILENT = "the database does not answer"
    HALF_OPEN = "its connections lead nowhere, new ones work"


class Instance:
    """`tocsin run`, started again after a random pause whenever it ends, as by a supervisor."""

    def __init__(self, file: Path, proxy: TcpProxy, session: aiohttp.ClientSession, chance: random.Random) -> None:
        self.process: TocsinProcess | None = None
        """None: between two runs."""
        self.ends: list[tuple[frozenset[Fault], int]] = []
        """What was done to the process of each run that has ended, and its exit status."""
        self.logs: list[str] = []
        """What they logged."""
        self._file = file
        self._proxy = proxy
        self._session = session
        self._chance = chance
        self._faults: set[Fault] = set()
        self._supervising = asyncio.create_task(self._supervise())

    async def suffer(self, fault: Fault, seconds: float) -> None:
        """Do something to the process. `seconds`: how long it takes, where it has an end."""
        process = self.process
        self._faults.add(fault)
        self._note(f"{fault}, {seconds:.2f} s")
        match fault:
            case Fault.KILL | Fault.STOP if process is not None:
                process.signal(signal.SIGKILL if fault is Fault.KILL else signal.SIGTERM)
            case Fault.PAUSE if process is not None:
                process.signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                process.signal(signal.SIGCONT)
            case Fault.CUT:
                await self._proxy.cut()
                await asyncio.sleep(seconds)
                await self._proxy.open()
            case Fault.SILENT:
                self._proxy.hold()
                await asyncio.sleep(seconds)
                self._proxy.release()
            case Fault.HALF_OPEN:
                self._proxy.lose()

    async def gauge(self, metric: str) -> dict[frozenset[tuple[str, str]], float] | None:
        """The series of a metric; None while it does not listen."""
        try:
            return await self.process.gauge(metric) if self.process and self.process.url else None
        except aiohttp.ClientError:
            return None

    async def end(self) -> None:
        """Kill it, and do not start it again."""
        self._supervising.cancel()
        await asyncio.gather(self._supervising, return_exceptions=True)
        if self.process is not None:
            await self.process.kill()

    def _note(self, what: str) -> None:
        """Shown with a failure, among the lines that processes log."""
        print(f"ts={datetime.now(UTC).isoformat()} {self._file.stem}: {what}")

    async def _supervise(self) -> None:
        while True:
            started = await start(self._file.parent, "run", "-c", str(self._file))
            self.process = TocsinProcess(started, self._file, self._session)
            status = await self.process.ended()
            self._note(f"ended with {status}")
            self.ends.append((frozenset(self._faults), status))
            self.logs += self.process.log
            self.process = None
            self._faults.clear()
            await asyncio.sleep(self._chance.uniform(0.0, 0.3))  # the restart of a supervisor


@asynccontextmanager
async def instances(
    count: int, directory: Path, config: Mapping[str, Any], database: Database, chance: random.Random
) -> AsyncIterator[list[Instance]]:
    """So many processes with this configuration, whose ledger is in the database."""
    target = conninfo_to_dict(database.dsn)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)))
        made = []
        for number in range(count):
            place = TcpProxy(str(target["host"]), int(target.get("port") or 5432))
            proxy = await stack.enter_async_context(place)
            url = make_conninfo(database.dsn, host="127.0.0.1", port=proxy.port)
            ledger = {**config["ledger"], "url": url}
            file = write(directory / f"tocsin-{number}.yaml", {**config, "ledger": ledger})
            made.append(Instance(file, proxy, session, random.Random(chance.random())))
            stack.push_async_callback(made[-1].end)
        try:
            yield made
        finally:
            for one in made:  # shown with a failure
                print(*one.logs, *(one.process.log if one.process else ()), sep="\n")


class Arrivals:
    """A receiver that fails at random. A request has one notification, several, or a digest."""

    def __init__(self, chance: random.Random) -> None:
        self.accepted: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """The ids by channel, in the order of their first arrival."""
        self.by_alert: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """The ids by channel and alert."""
        self.bodies: defaultdict[str, set[bytes]] = defaultdict(set)
        """By idempotency key."""
        self._chance = chance

    def receive(self, request: Received) -> Answer:
        self.bodies[request.headers["idempotency-key"]].add(request.body)
        answer = moody(self._chance)
        if answer.status == 200 and not answer.cut:
            channel = request.path.removeprefix("/")
            for one in envelopes(request):
                self.accepted[channel][one["id"]] = None
                self.by_alert[channel, one["alert"]].add(one["id"])
        return answer

    async def complete(self, expected: Mapping[str, set[str]]) -> bool:
        """Whether everything has arrived. `expected`: ids by channel."""
        missing = {channel: len(ids.difference(self.accepted[channel])) for channel, ids in expected.items()}
        assert not any(missing.values()), f"never arrived: {missing}"
        return True

    def assert_no_other(self, expected: Mapping[str, set[str]]) -> None:
        for channel, ids in expected.items():
            others = self.accepted[channel].keys() - ids
            assert not others, f"{channel}: {len(others)} notifications of something that never happened"
        assert all(len(texts) == 1 for texts in self.bodies.values()), "a repeat differs from what it repeats"

    def assert_in_order(self, model: Model, channel: str) -> None:
        """The first arrivals of each key are in the order of its transitions."""
        place = {name: number for number, name in enumerate(self.accepted[channel])}
        places: dict[str, list[int]] = defaultdict(list)
        for transition in model.expected:
            places[transition.fingerprint].append(place[notification_id(transition, channel)])
        assert all(order == sorted(order) for order in places.values()), f"{model.alert} at {channel} is out of order"


def envelopes(request: Received) -> Sequence[Any]:
    """The notifications in a request."""
    found = request.json if isinstance(request.json, list) else [request.json]
    return [each for one in found for each in one.get("merged", [one])]


WITNESS = """
    CREATE SCHEMA witness;
    CREATE TABLE witness.commits (
      number bigint GENERATED ALWAYS AS IDENTITY, alert text, frontier bigint, writer bigint, leader bigint);
    CREATE FUNCTION witness.note () RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        INSERT INTO witness.commits (alert, frontier, writer, leader) SELECT NEW.alert, NEW.frontier,
          split_part(current_setting('application_name'), ' ', 2)::bigint,
          (SELECT epoch FROM tocsin.leaders JOIN tocsin.instances USING (epoch) WHERE alert = NEW.alert);
        RETURN NULL;
      END
    $$;
    CREATE CONSTRAINT TRIGGER witness AFTER INSERT OR UPDATE ON tocsin.alerts
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION witness.note ();
"""
"""Notes for each commit of an alert who wrote it, and who led the alert at its very end."""
STRANGERS = "SELECT alert, writer, leader FROM witness.commits WHERE writer IS DISTINCT FROM leader"
STEPS_BACK = """
    SELECT alert, frontier FROM (
      SELECT alert, frontier, lag(frontier) OVER (PARTITION BY alert ORDER BY number) AS before FROM witness.commits
    ) AS each WHERE frontier < before
"""

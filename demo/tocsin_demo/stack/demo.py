"""All of the demo together: started in order, watched, ended in order."""

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from tocsin_demo.database import schema
from tocsin_demo.database.scenario import BID_WINDOW, DEPLOYMENT_WINDOW, PLAN
from tocsin_demo.database.server import Server
from tocsin_demo.inbox.app import serving
from tocsin_demo.inbox.inbox import Inbox, Settings
from tocsin_demo.stack import monitoring
from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.monitoring import Monitoring
from tocsin_demo.stack.ports import HOST, candidates
from tocsin_demo.stack.processes import Process, Processes, processes, told
from tocsin_demo.stack.producing import producing
from tocsin_demo.stack.screen import Overview, Place, Screen, Trial
from tocsin_demo.stack.supervisor import Supervisor
from tocsin_demo.stack.telling import Teller
from tocsin_demo.stack.workspace import write_psql
from tocsin_producer.errors import SinkError

INBOX_PORT = 8925

_LOOK_EVERY = 0.25
_PEOPLE_CHANNEL = "people"  # in tocsin.yaml
_PEOPLE = ("team-a", "team-b", "team-c", "team-d", "auction-house")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for. `seconds`: end by itself after so long; None for never."""

    seed: int = PLAN.seed
    prometheus: bool = True
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Everything that runs."""

    directory: Path
    inbox_url: str
    psql: Path
    tocsin: Supervisor
    monitoring: Monitoring | None
    jobs: Sequence["asyncio.Task[Any]"]


async def run(database: Server, screen: Screen, options: Options) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP, or for the time that was asked for. A second signal ends this process at
    once, and the rest goes by itself.

    Raises:
        DemoError: it cannot start or go on.
        OutputGoneError: nobody reads the screen any more.
    """
    stopping = asyncio.Event()
    _on_signals(stopping)
    stopped = asyncio.create_task(stopping.wait())
    async with AsyncExitStack() as stack:
        stack.callback(stopped.cancel)
        playing = asyncio.create_task(_play(stack, database, screen, options))
        await asyncio.wait({playing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            playing.cancel()
            await asyncio.wait({playing})
        if not playing.cancelled() and (error := playing.exception()) is not None:
            raise error
        with contextlib.suppress(Exception):
            screen.progress("stopping")


async def _play(stack: AsyncExitStack, database: Server, screen: Screen, options: Options) -> None:
    """Start everything, show it, and tell what happens. Whatever is started here is left to the stack to end."""
    stage = await _start(stack, database, screen, options)
    screen.overview(_overview(stage, options))
    done, _ = await asyncio.wait(stage.jobs, timeout=options.seconds, return_when=asyncio.FIRST_COMPLETED)
    for job in done:
        await job


async def _start(stack: AsyncExitStack, database: Server, screen: Screen, options: Options) -> _Stage:
    running = await stack.enter_async_context(processes())
    stack.callback(_logging_to(running.directory / "demo.log"))
    screen.progress("making the tables and views")
    await asyncio.to_thread(
        schema.apply, database.conninfo(), deployment_window=DEPLOYMENT_WINDOW, bid_window=BID_WINDOW
    )
    inbox, inbox_url = await stack.enter_async_context(_inbox())
    session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)))
    tocsin = Supervisor(running, session, database=database, inbox=inbox_url, report=screen.note)
    screen.progress("starting Tocsin")
    producer = await stack.enter_async_context(producing(database, seed=options.seed))
    stack.push_async_callback(tocsin.stop)
    await tocsin.start()
    watched = None
    if options.prometheus:
        watched = await monitoring.start(running, tocsin_port=tocsin.port, inbox=inbox_url)
    jobs = [
        await stack.enter_async_context(_task(_follow(screen, session, tocsin, inbox))),
        await stack.enter_async_context(_task(tocsin.keep())),
        await stack.enter_async_context(_task(_warden(running))),
        await stack.enter_async_context(_task(_producer(producer))),
    ]
    for process in watched.running if watched is not None else ():
        await stack.enter_async_context(_task(_told_of_end(screen, process)))
    return _Stage(
        directory=running.directory,
        inbox_url=inbox_url,
        psql=write_psql(running.directory, await asyncio.to_thread(_programs, database), database),
        tocsin=tocsin,
        monitoring=watched,
        jobs=jobs,
    )


def _logging_to(file: Path) -> Callable[[], None]:
    """Have what libraries log go to a file and not to the screen; returns what ends that."""
    handler = logging.FileHandler(file, delay=True)
    root = logging.getLogger()
    root.addHandler(handler)

    def end() -> None:
        root.removeHandler(handler)
        handler.close()

    return end


def _on_signals(stopping: asyncio.Event) -> None:
    def stop(number: signal.Signals) -> None:
        # The end of a terminal may well follow a Ctrl-C.
        if stopping.is_set() and number != signal.SIGHUP:
            os._exit(130)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)


@asynccontextmanager
async def _inbox() -> AsyncIterator[tuple[Inbox, str]]:
    """The inbox in this process, on the first port that it can have; the people it knows stand in a fixed order."""
    async with AsyncExitStack() as stack:
        for port in candidates(INBOX_PORT):
            # A fresh one each time: a server that did not come to listen has closed its inbox.
            inbox = Inbox(Settings(auto_workflows=True))
            for person in _PEOPLE:
                inbox.engine.worker.add_subscriber(person, {}, inbox.clock())
            try:
                url = await stack.enter_async_context(serving(inbox, host=HOST, port=port))
            except OSError:
                continue
            yield inbox, url
            return


@asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that is gone at the end of the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _follow(screen: Screen, session: aiohttp.ClientSession, tocsin: Supervisor, inbox: Inbox) -> None:
    """Write a line for whatever happens, for ever."""

    async def get(path: str) -> Any:
        async with session.get(f"{tocsin.url}/api/v1/{path}") as response:
            response.raise_for_status()
            return await response.json()

    teller = Teller(get, _recipients(inbox))
    while True:
        # Between two lives of Tocsin nobody answers; the ledger keeps what happened.
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            for line in await teller.look(time.time()):
                screen.line(line)
        await asyncio.sleep(_LOOK_EVERY)


def _recipients(inbox: Inbox) -> Callable[[str, str], Sequence[str]]:
    """Who has got a notification: its subscribers in the inbox; of a webhook, the channel itself."""

    def recipients(id_: str, channel: str) -> Sequence[str]:
        if channel != _PEOPLE_CHANNEL:
            return [channel]
        found = inbox.engine.worker.notifications_of(id_)
        return list(dict.fromkeys(each.subscriber_id for each in found))

    return recipients


async def _told_of_end(screen: Screen, process: Process) -> None:
    status = await process.ended()
    screen.note(f"{process.name} {told(status)}, and the demo goes on without; its log is {process.log}")


async def _warden(running: Processes) -> None:
    await running.lost.wait()
    raise DemoError("the process that looks after the others has ended, so the demo ends too")


async def _producer(task: "asyncio.Task[None]") -> None:
    try:
        await asyncio.shield(task)
    except SinkError as error:
        raise DemoError(f"the producer cannot go on: {error}") from None


def _programs(database: Server) -> Path:
    with psycopg.connect(database.conninfo()) as connection:
        row = connection.execute("SELECT setting FROM pg_config() WHERE name = 'BINDIR'").fetchone()
    assert row is not None
    return Path(row[0])


def _overview(stage: _Stage, options: Options) -> Overview:
    watched = stage.monitoring
    places = [
        Place(name="Inbox", where=f"{stage.inbox_url}/", what="what people are told; stands in for Novu"),
        Place(name="Tocsin", where=f"{stage.tocsin.url}/", what="what fires now, and how delivery goes"),
        Place(name="Gauges", where=f"{stage.tocsin.url}/metrics", what="the firing rows, for Prometheus"),
    ]
    if watched is not None and watched.prometheus is not None:
        where = f"{watched.prometheus_url}/"
        places.append(Place(name="Prometheus", where=where, what="graph organization_alert, for example"))
    if watched is not None and watched.alertmanager is not None:
        where = f"{watched.alertmanager_url}/"
        places.append(Place(name="Alertmanager", where=where, what="tells the inbox what Prometheus says"))
    places += [
        Place(name="Database", where=str(stage.psql), what="psql; try TABLE demo.organization_alert"),
        Place(name="Settings", where=str(stage.tocsin.config), what="what Tocsin runs on"),
        Place(name="Log", where=str(stage.tocsin.log), what="what Tocsin says"),
    ]
    return Overview(
        story=(
            "Made-up deployments and auction bids stream into PostgreSQL. Two views there hold what is alarming right "
            "now: organizations that deploy unusually often, and bids that a rule catches. Tocsin watches the views. "
            "A row that appears has fired, one that is gone has resolved; people are told of both, and each row is a "
            f"gauge while it lasts. A spike comes every {PLAN.spike_interval:g} seconds."
        ),
        places=places,
        trials=_trials(stage),
        hints=_hints(watched, options),
    )


def _trials(stage: _Stage) -> list[Trial]:
    rule = "UPDATE demo.organizations SET threshold = 0"
    command = Path(sys.executable).with_name("tocsin")
    with contextlib.suppress(ValueError):
        command = command.relative_to(Path.cwd())
    psql = shlex.quote(str(stage.psql))
    return [
        Trial(
            what="Nobody answers: press 500 at the top of the inbox, wait for some lines here, press Healthy. What had "
            "to wait arrives then, once."
        ),
        Trial(
            what="A crash: Tocsin is started again and goes on where it was.",
            command=f"kill -9 {stage.tocsin.pid}",
        ),
        Trial(what="Rules are rows: from now on a single deployment is a spike.", command=f'{psql} -c "{rule}"'),
        Trial(
            what="What has been told so far, and what waits:",
            command=f"{shlex.quote(str(command))} outbox list -c {shlex.quote(str(stage.tocsin.config))}",
        ),
    ]


def _hints(watched: Monitoring | None, options: Options) -> list[str]:
    hints = []
    if watched is not None and watched.missing:
        names = " and ".join(watched.missing)
        hints.append(f"With {names} on the PATH, the demo would run them too: graphs, rules and grouped alerts.")
    if watched is not None and watched.problem:
        hints.append(f"Without Prometheus: {watched.problem}")
    end = "Ctrl-C ends everything" if options.seconds is None else f"Everything ends after {options.seconds:g} s"
    hints.append(f"Everything listens on {HOST} only. {end} and leaves nothing behind.")
    return hints

"""The whole demo: started in order, watched, ended in order."""

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tocsin_demo.database import schema, server
from tocsin_demo.database.scenario import BID_WINDOW, DEPLOYMENT_WINDOW, PLAN
from tocsin_demo.inbox.app import serving
from tocsin_demo.inbox.inbox import Inbox, Settings
from tocsin_demo.stack import monitoring
from tocsin_demo.stack.activity import Activity
from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.monitoring import Monitoring
from tocsin_demo.stack.ports import HOST, candidates
from tocsin_demo.stack.processes import Process, Processes, processes
from tocsin_demo.stack.producing import producing
from tocsin_demo.stack.screen import Screen
from tocsin_demo.stack.tocsin import Tocsin
from tocsin_demo.stack.workspace import write_psql
from tocsin_producer.errors import SinkError

INBOX_PORT = 8925

_POLL_EVERY = 0.25
_PEOPLE_CHANNEL = "people"  # in tocsin.yaml
_PEOPLE = ("team-a", "team-b", "team-c", "team-d", "auction-house")


@dataclass(frozen=True, slots=True)
class Options:
    """The command's options. `seconds`: end after so long; None for never."""

    seed: int
    prometheus: bool
    seconds: float | None


async def run(screen: Screen, options: Options) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP, or for the given time. A second signal ends this process at once; the reaper
    then ends the others.

    Raises:
        DemoError: it cannot start or go on.
        OutputGoneError: the reader of the output is gone.
    """
    running = asyncio.create_task(_run(screen, options))

    def stop(number: signal.Signals) -> None:
        # The end of a terminal may follow a Ctrl-C.
        if running.cancelling() and number != signal.SIGHUP:
            os._exit(130)
        running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(screen: Screen, options: Options) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(processes())
        try:
            await _play(stack, running, screen, options)
        finally:
            with contextlib.suppress(Exception):
                screen.progress("stopping")


async def _play(stack: AsyncExitStack, running: Processes, screen: Screen, options: Options) -> None:
    """Start everything, show it, and print what happens. The stack ends whatever is started here."""
    logging.basicConfig(filename=running.directory / "demo.log")  # what libraries log is not for the screen
    screen.progress("starting PostgreSQL")
    database = await server.start(running)
    psql = write_psql(running.directory, database)
    screen.progress("creating the tables and views")
    windows = {"deployment_window": DEPLOYMENT_WINDOW, "bid_window": BID_WINDOW}
    await asyncio.to_thread(schema.apply, database.conninfo(), **windows)
    inbox, inbox_url = await stack.enter_async_context(_inbox())
    screen.progress("starting Tocsin")
    producer = await stack.enter_async_context(producing(database, seed=options.seed))
    session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)))
    places = {"TOCSIN_DIRECTORY": str(running.directory), "DATABASE_HOST": database.host, "INBOX_URL": inbox_url}
    tocsin = Tocsin(running, session, places, report=screen.note)
    await tocsin.start()
    watched: Monitoring = {}
    hint = ""
    if options.prometheus:
        watched, hint = await monitoring.start(running, tocsin_port=tocsin.port, inbox=inbox_url)
    _introduce(screen, tocsin, inbox_url, psql, watched)
    end = "Ctrl-C ends everything" if options.seconds is None else f"Everything ends after {options.seconds:g} s"
    screen.paragraph(f"\n{hint}".rstrip(), style="dim")
    screen.paragraph(f"Everything listens on {HOST} only. {end} and leaves nothing behind.\n", style="dim")
    await _first(
        _follow(screen, session, tocsin, inbox),
        tocsin.keep(),
        _unattended(running),
        _watch(screen, watched),
        _produced(producer),
        seconds=options.seconds,
    )


async def _first(*jobs: Coroutine[Any, Any, None], seconds: float | None) -> None:
    """Run jobs until one of them ends, or for some time."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def _inbox() -> AsyncIterator[tuple[Inbox, str]]:
    """The inbox in this process, on the first free port. The people it knows are in a fixed order."""
    async with AsyncExitStack() as stack:
        for port in candidates(INBOX_PORT):
            # A new one each time: an inbox is closed when its server fails to listen.
            inbox = Inbox(Settings(auto_workflows=True))
            for person in _PEOPLE:
                inbox.engine.worker.add_subscriber(person, {})
            try:
                url = await stack.enter_async_context(serving(inbox, host=HOST, port=port))
            except OSError:
                continue
            yield inbox, url
            return


async def _follow(screen: Screen, session: aiohttp.ClientSession, tocsin: Tocsin, inbox: Inbox) -> None:
    """Print a line for whatever happens, for ever."""

    async def get(path: str) -> Any:
        async with session.get(f"{tocsin.url}/api/v1/{path}") as response:
            response.raise_for_status()
            return await response.json()

    def recipients(id_: str, channel: str) -> Sequence[str]:
        # Of a notification to people: its subscribers in the inbox. Of a webhook: the channel itself.
        if channel != _PEOPLE_CHANNEL:
            return [channel]
        return list(dict.fromkeys(each.subscriber_id for each in inbox.engine.worker.notifications_of(id_)))

    activity = Activity(get, recipients)
    while True:
        # While Tocsin restarts there is no answer; its ledger keeps what happened.
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            for line in await activity.poll(time.time()):
                screen.line(line)
        await asyncio.sleep(_POLL_EVERY)


async def _watch(screen: Screen, watched: Monitoring) -> None:
    """Print a line when Prometheus or Alertmanager ends. Runs for ever."""

    async def end(process: Process) -> None:
        await process.ended()
        screen.note(f"{process.name} {process.outcome}; the demo goes on without it. Its log is {process.log}")

    await asyncio.gather(*(end(process) for process, _ in watched.values()))
    await asyncio.Event().wait()


async def _unattended(running: Processes) -> None:
    await running.unattended()
    raise DemoError("the process that ends the others has ended, so the demo ends too")


async def _produced(producer: "asyncio.Task[None]") -> None:
    try:
        await asyncio.shield(producer)
    except SinkError as error:
        raise DemoError(f"the producer cannot go on: {error}") from None


def _introduce(screen: Screen, tocsin: Tocsin, inbox: str, psql: Path, watched: Monitoring) -> None:
    """Show the first screen."""
    screen.heading("Tocsin rings the bell on rows of a live view")
    screen.paragraph(
        "\nMade-up deployments and auction bids stream into PostgreSQL. Two views there hold what is alarming right "
        "now: organizations that deploy unusually often, and bids that match a rule. Tocsin watches the views. A row "
        "that appears fires, and a row that disappears resolves; people are notified of both, and each row is a gauge "
        f"while it exists. A spike comes every {PLAN.spike_interval:g} seconds."
    )
    notes = {"Prometheus": "graph organization_alert, for example", "Alertmanager": "sends alerts to the inbox, too"}
    screen.heading("Open")
    screen.places(
        [
            ("Inbox", f"{inbox}/", "messages to people; stands in for Novu"),
            ("Tocsin", f"{tocsin.url}/", "what fires now, and the state of deliveries"),
            ("Gauges", f"{tocsin.url}/metrics", "the firing rows, for Prometheus"),
            *((name, watched[name][1], note) for name, note in notes.items() if name in watched),
            ("Database", str(psql), "psql; try TABLE demo.organization_alert"),
            ("Settings", str(tocsin.config), "Tocsin's configuration"),
            ("Log", str(tocsin.process.log), "Tocsin's log"),
        ]
    )
    command = Path(sys.executable).with_name("tocsin")
    with contextlib.suppress(ValueError):
        command = command.relative_to(Path.cwd())
    rule = "UPDATE demo.organizations SET threshold = 0"
    screen.heading("Try")
    screen.paragraph(
        "An outage: press 500 at the top of the inbox, wait for some lines here, press Healthy. The messages that had "
        "to wait arrive then, once each."
    )
    screen.paragraph("A crash: Tocsin is started again and goes on where it was.")
    screen.command(f"kill -9 {tocsin.process.pid}")
    screen.paragraph("Rules are rows: from now on a single deployment is a spike.")
    screen.command(f'{shlex.quote(str(psql))} -c "{rule}"')
    screen.paragraph("The notifications so far, and those that are pending:")
    screen.command(f"{shlex.quote(str(command))} outbox list -c {shlex.quote(str(tocsin.config))}")

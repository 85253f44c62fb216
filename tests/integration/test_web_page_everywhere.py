"""The status page for everyone, in every view: in light and dark, on a phone, by keyboard, read aloud; and live."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from support.axe import axe, violations
from support.browser import Tab, new_tab
from support.page import IN_BROWSER, fill, go, until_runs, until_shows
from support.ports import free_port
from support.web import ACME, DEAD, ENDED, FIRED, INSTANCE, LATE, PEOPLE, FakeProcess, firing
from support.why import WHY
from tocsin.exposition import Metrics, Page
from tocsin.firing import Phase
from tocsin.silences import asked
from tocsin.web import views
from tocsin.web.access import Rules
from tocsin.web.application import build
from tocsin.web.guard import Guard

pytestmark = IN_BROWSER
NAME = f"process 4711 on {'tocsin-' * 12}0"
VIEWS = {
    "firing": "<b>Acme</b> waits",
    "alerts": "lost",
    "alerts/late": "2.5 s",
    "channels": "Last errors",
    "dead": "rejected",
    f"notifications/{DEAD.id}": "written to the outbox",
    f"explain/late/{'1' * 32}": "It is notified again.",
    "silences": "the warehouse moves",
    "transitions": "fired",
    "processes": NAME,
}
"""Each view, and what it shows in the end."""


def full(process: FakeProcess) -> None:
    """Something of everything, with long names."""
    process.summary = "{{ labels.customer }} waits"
    failures = [{"at": views.wall_time(1.0), "reason": "timeout", "detail": "no answer " * 30, "count": 2}]
    why = "the receiver " * 30
    process.channel_list = [
        {**PEOPLE, "state": "paused", "message": why, "dead": 2, "failures": [{**failures[0], "id": DEAD.id}]},
        {**PEOPLE, "name": "x" * 90, "delivered": 3},
    ]
    process.alert_list = [
        {**LATE, "leader": {"name": NAME, "this": False}},
        {**LATE, "name": "lost", "state": "error", "message": why, "firing": 0},
        {**LATE, "name": "y" * 90, "firing": 0, "pending": 4},
    ]
    process.fired = {"late": [firing(1), firing(2), firing(3)]}
    process.fired["late"][1] = firing(2).__class__(
        fingerprint="2", phase=Phase.PENDING, started_at=1, marked_at=1, row=("z" * 300, *ACME[1:]), counts=()
    )
    process.reasons = [why]
    process.feed.publish([FIRED] * 3)
    process.outbox.history = [ENDED]
    process.explanation = WHY
    silence = asked({"matchers": 'customer=~".+"', "for": "2h", "reason": "the warehouse moves " * 30})
    process.outbox.add(silence.made("s" * 12, process.outbox.now()))
    process.instance_list = [
        INSTANCE,
        {**INSTANCE, "name": NAME, "address": f"http://{'x' * 90}:8627", "this": False},
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_in_any_view(tab: Tab, process: FakeProcess, scheme: str) -> None:
    """On a wide screen and on a phone, where nothing is wider than the screen."""
    script = axe()
    full(process)
    await tab.scheme(scheme)
    for width in (1280, 360):
        await tab.resize(width, 800)
        for view, shown in VIEWS.items():
            await go(tab, view)
            await until_shows(tab, "main", shown)
            await tab.run("for (const one of document.querySelectorAll('details')) one.open = true")
            assert await tab.run("document.documentElement.scrollWidth") <= width, view
            assert await violations(tab, script) == [], f"{view} at {width}"
    await tab.run("document.querySelector('h2').append(document.createElement('img'))")
    assert "image-alt" in "".join(await violations(tab, script)), "it does find what is wrong"


async def test_keyboard_reaches_everything_and_keeps_its_place(tab: Tab, process: FakeProcess) -> None:
    """What can be clicked has the focus in turn, and keeps it while the page changes; a new view begins at its
    heading."""
    full(process)
    await go(tab, "processes")
    for view, shown in VIEWS.items():
        await go(tab, view)
        await until_shows(tab, "main", shown)
        await until_runs(tab, "document.activeElement.id", "title")
        lost = """[...document.querySelectorAll('a, button, summary, select, input')]
            .filter((one) => one.tabIndex < 0 && !one.disabled).length"""
        assert await tab.run(lost) == 0, view
    await go(tab, "alerts")
    await until_shows(tab, "#alerts", "late")
    await tab.run("document.querySelector('#alerts [data-key=\"alert late\"]').focus()")
    process.alert_list[0] = {**process.alert_list[0], "gaps": 7}
    await until_shows(tab, "#alerts", "7 gaps")
    assert await tab.run("document.activeElement.dataset.key") == "alert late"
    await tab.press("Enter", 13, "\r")
    await until_shows(tab, "#title", "late")


async def test_page_follows_the_process_without_requests(tab: Tab, process: FakeProcess) -> None:
    """Each change is there by itself; nothing is asked again while nothing changes."""
    await until_shows(tab, "#verdict", "2 firing")
    process.alert_list[0] = {**LATE, "firing": 3}
    process.fired["late"].append(firing(3))
    await until_shows(tab, "#verdict", "3 firing")
    await until_shows(tab, "#title", "3")
    await go(tab, "transitions")
    process.feed.publish([FIRED])
    await until_shows(tab, "main .list", "fired", "late")
    asked = "performance.getEntriesByType('resource').map((one) => new URL(one.name).pathname)"
    before = await tab.run(asked)
    process.channel_list = [{**PEOPLE, "dead": 4}]
    await until_shows(tab, "#nav", "Dead letters 4")
    assert await tab.run(asked) == before
    assert before.count("/api/v1/live") <= 1


async def test_page_comes_back_after_a_lost_connection(browser: str, process: FakeProcess) -> None:
    """It says so meanwhile, and then has what changed."""
    port = free_port()
    async with new_tab(browser) as tab:
        async with serving(process, port):
            await tab.open(f"http://127.0.0.1:{port}/")
            await until_shows(tab, "#verdict", "2 firing")
        await until_shows(
            tab, "#lost", "Tocsin does not answer", "The page shows the state of", "connects again by itself"
        )
        await go(tab, "dead")
        await until_shows(tab, "main", "The dead letters cannot be read: Tocsin does not answer")
        process.alert_list[0] = {**LATE, "firing": 9}
        async with serving(process, port):
            await until_shows(tab, "#verdict", "9 firing")
            assert await tab.run("document.querySelector('#lost').hidden")


@asynccontextmanager
async def serving(process: FakeProcess, port: int) -> AsyncIterator[None]:
    """The web server on this port."""
    guard = Guard(Rules())
    runner = web.AppRunner(build(process, Page(Metrics("1.2.3")), guard=guard), shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    yield
    await runner.cleanup()
    guard.close()


async def test_letters_of_the_search_find_rows_at_once(tab: Tab, process: FakeProcess) -> None:
    process.fired = {"late": [firing(1), firing(2)]}
    await until_shows(tab, "main", "late")
    await fill(tab, "acme")
    await until_shows(tab, "#title", "2 of 2")

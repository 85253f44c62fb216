"""The status page in a real browser: what all views have, and the list of processes."""

from dataclasses import replace

import pytest

from support.browser import Tab
from support.page import IN_BROWSER, fill, go, until_runs, until_shows
from support.waiting import until_equal
from support.web import DEAD, INSTANCE, LATE, PEOPLE, FakeProcess, firing

pytestmark = IN_BROWSER


async def test_configuration_is_reloaded_from_the_page(tab: Tab, process: FakeProcess) -> None:
    """While it is refused, every view says so."""
    process.problems = ["alerts.late: <b>no source</b>"]
    await until_runs(tab, "document.querySelector('#reload').hidden", value=False)
    await tab.click("button", "reload the configuration")
    await until_shows(
        tab, "footer", "The configuration was refused; the last good one stays in use.", "<b>no source</b>"
    )
    tab.problems.clear()  # the answer 500
    await until_shows(tab, "#unready", "the one before it stays in effect", "<b>no source</b>")
    process.problems = []
    await until_runs(tab, "document.querySelector('#unready').hidden", value=True)
    await tab.click("button", "reload the configuration")
    await until_shows(tab, "footer", "The configuration was reloaded.")


# Sixty alerts.


def sixty(process: FakeProcess) -> None:
    """Sixty alerts, of which twenty fire and one is in error; twelve channels, of which one does not deliver."""
    process.alert_list = [{**LATE, "name": f"alert-{n}", "firing": 0 if n % 3 else 2} for n in range(60)]
    process.alert_list[58] = {**LATE, "name": "broken", "state": "error", "message": "the view is gone", "firing": 0}
    process.fired = {f"alert-{n}": [firing(1), firing(2)] for n in range(0, 60, 3)}
    process.channel_list = [{**PEOPLE, "name": f"channel-{n}"} for n in range(12)]
    process.channel_list[11] = {**PEOPLE, "name": "pager", "state": "paused", "message": "401", "dead": 5_000}


async def names(tab: Tab, part: str) -> list[str]:
    """The names in a list, in order."""
    return list(await tab.run(f"[...document.querySelectorAll('{part} li .name')].map((one) => one.innerText)"))


async def until_names(tab: Tab, part: str, *expected: str) -> None:
    await until_equal(lambda: names(tab, part), list(expected), f"names in {part}")


async def test_alerts_and_channels_in_trouble_are_first(tab: Tab, process: FakeProcess) -> None:
    """Then alerts that fire, then the others in the order of the configuration."""
    sixty(process)
    await go(tab, "alerts")
    others = [f"alert-{n}" for n in range(60) if n % 3 and n != 58]
    await until_names(tab, "#alerts", "broken", *(f"alert-{n}" for n in range(0, 60, 3)), *others)
    assert await tab.text("#title") == "Alerts 60"
    await go(tab, "channels")
    await until_names(tab, "#channels", "pager", *(f"channel-{n}" for n in range(11)))
    process.reasons = [f"alert alert-{n}: no answer" for n in range(9)]
    await until_runs(tab, "document.querySelectorAll('#unready li').length", 5)


async def test_search_finds_in_every_view(tab: Tab, process: FakeProcess) -> None:
    """By all of its words. It goes from view to view, and stays when the page is loaded again."""
    sixty(process)
    process.outbox.records = [replace(DEAD, channel="pager"), replace(DEAD, id="e", alert="alert-6")]
    await until_shows(tab, "main", "40")
    await fill(tab, "acme alert-57")
    await until_shows(tab, "main", "2 of 40", "alert-57")
    assert await tab.run("location.hash") == "#/firing?q=acme+alert-57"
    await tab.reload()
    await until_shows(tab, "main", "2 of 40", "alert-57")
    assert await tab.run("document.querySelector('#search').value") == "acme alert-57"
    await fill(tab, "pager")
    await until_shows(tab, "main", "No row that fires is found.")
    await tab.run("document.querySelector('#nav a[href^=\"#/channels\"]').click()")
    await until_names(tab, "#channels", "pager")
    await tab.run("document.querySelector('#nav a[href^=\"#/dead\"]').click()")
    await until_names(tab, "#dead", "late")
    await fill(tab, "ERROR gone")
    await tab.run("document.querySelector('#nav a[href^=\"#/alerts\"]').click()")
    await until_names(tab, "#alerts", "broken")
    assert await tab.text("#title") == "Alerts 1 of 60"


async def test_former_addresses_lead_to_the_views(tab: Tab, process: FakeProcess) -> None:
    sixty(process)
    address = await tab.run("location.origin")
    await tab.open(f"{address}/?filter=pager#channels-title")
    await until_names(tab, "#channels", "pager")
    assert await tab.run("location.href") == f"{address}/#/channels?q=pager"
    for former, title in (("dead-title", "Dead letters"), ("recent-title", "Latest transitions")):
        await tab.run(f"location.hash = '#{former}'")
        await until_shows(tab, "#title", title)


@pytest.mark.parametrize(("width", "height"), [(360, 640), (1280, 800)])
async def test_every_trouble_is_one_link_away(tab: Tab, process: FakeProcess, width: int, height: int) -> None:
    """The links are in the first view, and the view begins with what they name."""
    await tab.resize(width, height)
    sixty(process)
    await until_shows(tab, "#trouble", "1 alert without current rows, 1 channel not delivering, 5,000 dead letters")
    for link, first in (("alerts", "broken"), ("channels", "pager"), ("dead", "late")):
        part = f"#{link}"
        await tab.run("scrollTo(0, 0)")
        place = f"document.querySelector(\"#trouble a[href='#/{link}']\")"
        assert 0 <= await tab.run(f"{place}.getBoundingClientRect().top") < height
        await tab.run(f"{place}.click()")
        await until_runs(tab, f"document.querySelector('{part} .name')?.innerText", first)
        assert 0 <= await tab.run(f"document.querySelector('{part} .name').getBoundingClientRect().top") < height


# Processes.


OTHERS = [
    INSTANCE,
    {**INSTANCE, "name": "process 8 on host-a", "address": "http://127.0.0.1:8628", "leads": [], "this": False},
    {**INSTANCE, "name": "process 9 on host-b", "host": "host-b", "address": "https://host-b:8627", "this": False},
    {**INSTANCE, "name": "process 5 on host-c", "host": "host-c", "address": "http://127.0.0.1:8627", "this": False},
]
LED = [
    {**LATE, "leader": {"name": "process 7 on host-a", "this": True}},
    {**LATE, "name": "lost", "leader": {"name": "process 9 on host-b", "this": False}},
]


async def test_processes_are_shown_where_there_are_several(tab: Tab, process: FakeProcess) -> None:
    """With who leads each alert, and links to pages of others that this browser reaches."""
    process.instance_list, process.alert_list = OTHERS[:1], LED
    await go(tab, "alerts")
    await until_shows(tab, "#alerts", "lost")
    assert "led by" not in await tab.text("#alerts")
    assert "Processes" not in await tab.text("nav")
    process.instance_list = OTHERS
    await until_shows(tab, "#alerts", "led by this process", "led by process 9 on host-b")
    await until_shows(tab, "nav", "Processes 4")
    await go(tab, "processes")
    await until_shows(tab, "#instances", "process 7 on host-a", "this one", "leads 1 alert", "leads none")
    links = "[...document.querySelectorAll('#instances a')].map((one) => one.href)"
    assert await tab.run(links) == ["http://127.0.0.1:8628/", "https://host-b:8627/"]
    assert "http://127.0.0.1:8627" in await tab.text("#instances"), "that of another machine is text"

"""The status page with sixty alerts and twenty thousand rows: the browser has a page of them."""

import pytest

from support.browser import Tab
from support.crowd import ALERTS, NAMES, Crowd
from support.page import IN_BROWSER, fill, go, until_runs, until_shows
from support.web import FakeProcess

pytestmark = IN_BROWSER
NODES = "document.querySelectorAll('*').length"


@pytest.fixture
def process() -> FakeProcess:
    return Crowd()


async def test_browser_has_a_page_of_the_rows(tab: Tab) -> None:
    """50 rows of 20,000, in less than 40 kB."""
    await until_shows(tab, "#title", "Firing now 19,976")
    await until_runs(tab, "document.querySelectorAll('.rows tbody tr').length", 50)
    sizes = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/rows'))"
    sizes += ".map((one) => one.transferSize)"
    assert max(await tab.run(sizes)) < 40_000
    assert await tab.run(NODES) < 2_000


async def test_search_finds_one_row_of_twenty_thousand(tab: Tab) -> None:
    await until_shows(tab, "#title", "19,976")
    await fill(tab, "1019975")
    await until_shows(tab, "#title", "1 of 19,976")
    await until_shows(tab, ".rows", "Order 1019975 of Foundry")


async def test_change_of_one_row_makes_only_its_line_again(tab: Tab, process: Crowd) -> None:
    """So that the selection, the focus and a screen reader stay where they are."""
    await until_runs(tab, "document.querySelectorAll('.rows tbody tr').length", 50)
    await tab.run("for (const one of document.querySelectorAll('.rows tbody tr')) one.isOld = true")
    process.change(NAMES[0], 3, 4321.5)
    await until_shows(tab, ".rows", "4321.5")
    await until_runs(tab, "[...document.querySelectorAll('.rows tbody tr')].filter((one) => !one.isOld).length", 1)


async def test_sixty_timelines_are_drawn(tab: Tab) -> None:
    await go(tab, "alerts")
    await until_runs(tab, "document.querySelectorAll('#alerts svg.states').length", ALERTS)
    assert await tab.run(NODES) < 6_000

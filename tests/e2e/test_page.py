"""The status page over a whole process, in a real browser: a bad night, a restart, and a reload that is refused."""

import signal
from collections.abc import Iterator

import pytest

from support.browser import chromium, new_tab
from support.page import IN_BROWSER, go, until_runs, until_shows
from support.receiver import Answer
from support.tocsin import Harness

pytestmark = [pytest.mark.e2e, *IN_BROWSER]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


async def test_page_names_the_cause_and_keeps_the_past_after_a_restart(browser: str, harness: Harness) -> None:
    """A receiver refuses a notification; the page shows why, and sends it again."""
    harness.config.setdefault("web", {})["admin"] = True
    harness.receiver.script(Answer(status=400, body=b"no such room"))
    async with new_tab(browser) as tab:
        async with harness.run() as tocsin:
            await tocsin.until_ready()
            await tab.open(f"{tocsin.url}/")
            await until_shows(tab, ".rows", "orders")
            await until_shows(tab, "#trouble", "1 dead letter")
            await go(tab, "channels")
            await until_shows(tab, "#channels", "1 failed attempt", "1 dead letter", "Last errors")
            await tab.run("document.querySelector('#channels details').open = true")
            await until_shows(tab, "#channels", "no such room")
            # It stays open when its channel changes.
            harness.orders.insert(("9", "Zoe", "90"))
            await until_shows(tab, "#channels", "1 delivered", "no such room")
            await tab.click("#channels a", "the latest")
            await until_shows(tab, "main", "became a dead letter", "no such room", "Request", "POST")
            await tab.click("main a", "why the row fires")
            await until_shows(tab, "main", "fires since", "Its row is in", "no such room")
            await go(tab, "dead")
            await tab.click("#dead button", "Retry")
            await harness.until_notified(("fired", "9"), ("fired", "1"))
            await until_shows(tab, "#nav", "Dead letters 0")
        async with harness.run() as tocsin:
            await tocsin.until_ready()
            await tab.open(f"{tocsin.url}/#/alerts/orders")
            await until_shows(tab, "main", "still firing", "delivered")
            await until_runs(tab, "document.querySelectorAll('svg.states .m4').length > 0", value=True)
            tocsin.write({**harness.config, "alerts": {"orders": {"source": "none"}}})
            tocsin.signal(signal.SIGHUP)
            await until_shows(tab, "#unready", "the one before it stays in effect", "there is no source 'none'")

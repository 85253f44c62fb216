"""The status page in a real browser: alerts, their history, and why a key fires."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from support.browser import Tab
from support.page import IN_BROWSER, go, until_runs, until_shows
from support.waiting import until_equal
from support.web import ACME, ENDED, LATE, FakeProcess, firing
from support.why import WHY
from tocsin.errors import LedgerError, LedgerReason

pytestmark = IN_BROWSER


async def cells(tab: Tab, name: str) -> list[str]:
    """A column of the table of firings."""
    script = f"[...document.querySelectorAll('section td[data-name={name}]')].map((one) => one.innerText.trim())"
    return [" ".join(text.split()) for text in await tab.run(script)]


async def test_history_shows_active_ended_and_unknown_ends(tab: Tab, process: FakeProcess) -> None:
    fired = replace(ENDED, ended_at=None, kind="fired", deliveries={})
    event = replace(ENDED, alert="late", ended_at=ENDED.started_at, kind="event", row=(None, *ACME[1:]))
    process.outbox.history = [replace(fired, firing=True), fired, ENDED, event]
    await go(tab, "alerts")
    await tab.click("#alerts a.name", "late")
    await until_shows(tab, "main", "still firing")
    assert await tab.text("#title") == "late"
    assert await cells(tab, "duration") == ["still firing", "ended, time not kept", "2.5 s", "event"]
    *labels, columns = await cells(tab, "row")
    assert labels == ["customer <b>Acme</b> why"] * 3, "text from a row is text"
    assert "iban DE89" in columns, "without labels, the columns are shown"
    assert (await cells(tab, "deliveries"))[2:] == ["people 2 delivered pager 1 dead"] * 2
    assert await tab.run("document.querySelector('td time').dateTime") == "2023-11-14T22:13:20.000Z"


async def test_missing_history_is_explained(tab: Tab, process: FakeProcess) -> None:
    await go(tab, "alerts/late")
    await until_shows(tab, "main", "No notifications of this alert are kept.")
    process.outbox.fault = LedgerError("tocsin.db: the disk is full; make room", LedgerReason.FULL)
    await go(tab, "alerts")
    await go(tab, "alerts/late")
    await until_shows(tab, "main", "tocsin.db: the disk is full; make room")
    tab.problems.clear()  # the answer 503


async def test_timeline_says_in_words_when_an_alert_fired(tab: Tab, process: FakeProcess) -> None:
    process.alert_list = [LATE, {**LATE, "name": "lost", "state": "error", "message": "gone", "firing": 0}]
    await go(tab, "alerts")
    bars = "[...document.querySelectorAll('#alerts svg.states')].map((one) => one.getAttribute('aria-label'))"
    lost, late = "source down or silent", "firing"
    expected = [f"Last 6 h: {name} 1 % of the time; now {name}" for name in (lost, late)]
    await until_runs(tab, bars, expected)
    assert "firing: now 2" in await tab.run("document.querySelector('#alerts li + li .spark svg').ariaLabel")
    await tab.click("button", "24 h")
    await until_runs(tab, bars, [text.replace("6 h", "24 h") for text in expected])
    assert await tab.run("location.hash") == "#/alerts?hours=24"


# Explanations.


async def test_row_leads_to_why_it_fires(tab: Tab, process: FakeProcess) -> None:
    process.fired = {"late": [firing(1)]}
    process.explanation = WHY
    await until_shows(tab, ".rows", "late")
    await tab.click(".rows a.summary", "late")
    await until_shows(
        tab,
        "main",
        "It fires, since <b>noon</b>.",
        'when row.severity == "page" is false (row.severity = "info")',
        "This channel gets nothing.",
        "began ",
        "iban",
    )
    alert, asked = process.keys[-1]
    assert (alert, asked.fingerprint) == ("late", "1" * 32)
    await tab.click("summary", "Request and answers")
    await until_shows(tab, "main", "rejected: 422")
    await tab.click("main a", "its whole life")
    await until_shows(tab, "main", "became a dead letter", "ann")


async def test_key_that_does_not_fire_is_explained(tab: Tab, process: FakeProcess) -> None:
    """It is named as the commands name it."""
    await go(tab, "alerts/late")
    for text, values in (
        ("17", ("17",)),
        ("customer=Acme, total=1", ("customer=Acme", "total=1")),
        ("a, b", ("a, b",)),
    ):
        await until_runs(tab, "Boolean(document.querySelector('#key'))", value=True)
        await tab.run(f"document.querySelector('#key').value = {text!r}")
        await tab.click("button", "Explain")
        await until_equal(_asked(process), values, "the key that was asked about")
    await until_shows(tab, "main", process.explanation.summary)


def _asked(process: FakeProcess) -> Callable[[], Awaitable[tuple[str, ...]]]:
    async def values() -> tuple[str, ...]:
        return tuple(process.keys[-1][1].values) if process.keys else ()

    return values

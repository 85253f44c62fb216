"""The status page in a real browser: channels and dead letters."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from support.browser import Tab
from support.page import IN_BROWSER, go, until_runs, until_shows
from support.waiting import until_equal
from support.web import DEAD, LATE, PEOPLE, FakeProcess
from tocsin.ledger.base import Attempt
from tocsin.web import views

pytestmark = IN_BROWSER


async def test_refusing_channel_and_source_are_red(tab: Tab, process: FakeProcess) -> None:
    """With the reason, and the channel also at the top of the page."""
    why = "the last 400 notifications were given up on, the latest for: not_found: 404"
    process.channel_list = [{**PEOPLE, "state": "refusing", "message": why, "dead": 400, "failed": 400}]
    process.alert_list = [{**LATE, "state": "refusing", "message": "the last 3 messages are not valid events"}]
    await until_shows(tab, "#trouble", "1 channel not delivering, 400 dead letters")
    await go(tab, "channels")
    await until_shows(tab, "#channels .tag.bad", "refusing")
    await until_shows(tab, "#channels", "Correct what the last error names, then retry the dead letters.")
    await until_shows(tab, "#channels .why.bad", why)
    await go(tab, "alerts")
    await until_shows(tab, "#alerts .tag.bad", "refusing")
    await until_shows(tab, "#alerts .why.bad", "the last 3 messages are not valid events")
    await until_shows(tab, "#alerts", "Correct what sends them.")


async def test_last_errors_of_a_channel_lead_to_notifications(tab: Tab, process: FakeProcess) -> None:
    error = {"at": views.wall_time(1.0), "reason": "timeout", "detail": "no <i>answer</i>", "alert": "late"}
    failures = [{**error, "count": 12, "id": DEAD.id}, {**error, "reason": "rejected", "count": 1, "id": ""}]
    process.channel_list = [{**PEOPLE, "state": "failing", "message": "timeout", "failures": failures}]
    await go(tab, "channels")
    await until_shows(tab, "#channels details[open]", "timeout no <i>answer</i> 12 times", "rejected")
    await tab.click("#channels a", "the latest")
    await until_shows(tab, "#title", DEAD.id)


# Dead letters.


async def test_dead_letter_shows_request_and_answers(tab: Tab, process: FakeProcess) -> None:
    process.outbox.records = [DEAD]
    process.outbox.failed = {
        DEAD.id: [
            Attempt(at=1_700_000_001.5, reason="timeout", detail=""),
            Attempt(at=1_700_000_002.0, reason="rejected", detail="422 <i>no</i>"),
        ]
    }
    await go(tab, "dead")
    await until_shows(tab, "#dead", "to people", "rejected: 422", "3 attempts")
    await tab.click("#dead summary", "Request and answer")
    await until_shows(tab, "#dead details", "Attempts and answers")


async def test_dead_letters_are_retried_and_dropped_one_by_one(tab: Tab, process: FakeProcess) -> None:
    """Also those of a channel that was removed."""
    removed = {**PEOPLE, "name": "old pager", "type": "", "state": "removed", "message": "no longer configured"}
    process.channel_list = [PEOPLE, {**removed, "dead": 2}]
    old = replace(DEAD, channel="old pager", reason="unrouted")
    process.outbox.records = [old, replace(old, id="e", seq=6), replace(DEAD, id="f", seq=5)]
    await until_shows(tab, "#trouble", "2 dead letters")
    assert "not delivering" not in await tab.text("#trouble")
    await go(tab, "channels")
    shown = await until_shows(tab, "#channels", "old pager", "removed", "no longer configured", "2 dead letters")
    assert shown.count(" delivered") == 1, "what a removed channel has delivered is not known any more"
    await tab.click("#channels a", "2 dead letters")
    await until_shows(tab, "#dead", "to old pager", "unrouted")
    assert await tab.run("document.querySelector('select').value") == "old pager", "only those of the channel"
    await tab.run("window.confirm = () => true")
    await tab.click("#dead button", "Drop")
    await until_equal(_records(process), ["e", "f"], "the drop")
    await until_runs(tab, "document.querySelectorAll('#dead > li').length", 1)
    await tab.click("#dead button", "Retry")
    await until_equal(_records(process), ["f"], "the retry")


async def test_dead_letters_are_dropped_by_filter_and_by_search(tab: Tab, process: FakeProcess) -> None:
    others = [replace(DEAD, id=str(n), seq=n, detail="" if n else "gone") for n in range(3)]
    process.outbox.records = [DEAD, *others]
    process.channel_list = [{**PEOPLE, "dead": 4}]
    await tab.run("window.confirm = (question) => { window.asked = question; return true; }")
    await go(tab, "dead?q=gone")
    await tab.click("button", "Drop all")
    await until_equal(_records(process), [DEAD.id, "1", "2"], "what the search does not find")
    assert await tab.run("window.asked") == "Drop the 1 dead letter found? What is dropped is not delivered."
    await go(tab, "dead?channel=people&reason=rejected")
    await until_shows(tab, "#dead", "rejected")
    await tab.click("button", "Retry all")
    await until_equal(_records(process), [], "all that the filter has")
    assert await tab.run("window.asked") == "Send all dead letters for rejected to people again?"
    assert process.outbox.wanted[-1].reason == "rejected"


def _records(process: FakeProcess) -> Callable[[], Awaitable[list[str]]]:
    async def ids() -> list[str]:
        return [one.id for one in process.outbox.records]

    return ids

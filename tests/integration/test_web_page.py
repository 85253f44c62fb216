"""What a person sees on the page, in a real browser."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.browser import CHROMIUM, Tab, browser
from support.overview import FakeOverview
from support.waiting import until_some
from support.web import DEAD, LATE, Start, filled, starting
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Attempt, Status
from tocsin.web import ChannelStatus, Delivery, EpisodeRecord

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH")

ENDED = EpisodeRecord(
    alert="late",
    fingerprint="f" * 32,
    started_at=1_700_000_000_000,
    ended_at=1_700_000_002_500,
    firing=False,
    kind="resolved",
    labels={"customer": "<b>Acme</b>"},
    value=1.0,
    row={"customer": "<b>Acme</b>", "iban": "DE89"},
    deliveries=[
        Delivery(channel="people", status=Status.DELIVERED, count=2),
        Delivery(channel="pager", status=Status.DEAD, count=1),
    ],
)


@pytest.fixture
def overview() -> FakeOverview:
    overview = filled()
    overview.channel_list = [replace(overview.channel_list[0], dead=1)]
    return overview


@pytest.fixture
async def start(overview: FakeOverview) -> AsyncIterator[Start]:
    async with starting(overview) as begin:
        yield begin


@pytest.fixture
async def tab(tmp_path: Path, start: Start) -> AsyncIterator[Tab]:
    """The page, as it is shown to somebody who may give orders."""
    client = await start(admin=True)
    async with browser(tmp_path / "profile") as opened:
        await opened.open(str(client.make_url("/")))
        yield opened


async def until_shows(tab: Tab, selector: str, *parts: str) -> str:
    """Wait until all of these are to be read there."""

    async def look() -> str:
        text = await tab.text(selector)
        for part in parts:
            assert part in text, f"{part!r} is not in {text!r}"
        return text

    return await until_some(look)


async def cells(tab: Tab, name: str) -> list[str]:
    """A column of the table in the dialog."""
    script = f"[...document.querySelectorAll('#details-body td[data-name={name}]')].map((one) => one.innerText.trim())"
    return [" ".join(text.split()) for text in await tab.run(script)]


async def test_history_tells_what_fires_what_ended_and_of_what_the_end_is_not_known(
    tab: Tab, overview: FakeOverview
) -> None:
    fired = replace(ENDED, ended_at=None, kind="fired", deliveries=[])
    event = replace(ENDED, ended_at=ENDED.started_at, kind="event", labels={})
    overview.history = [replace(fired, firing=True), fired, ENDED, event]
    await tab.click("#alerts button", "history")
    await until_shows(tab, "#details[open] #details-body", "still firing")
    assert await tab.text("#details-title") == "History of late"
    assert await cells(tab, "lasted") == ["still firing", "ended, time not kept", "2.5 s", "event"]
    *labels, columns = await cells(tab, "row")
    assert labels == ["customer <b>Acme</b>"] * 3, "text from a row is text"
    assert columns.endswith("iban DE89"), "without labels, the columns say what it is about"
    assert (await cells(tab, "told"))[2:] == ["people 2 delivered pager 1 dead"] * 2
    assert await tab.run("document.querySelector('#details-body time').dateTime") == "2023-11-14T22:13:20.000Z"
    await tab.click("#details button", "Close")
    assert not await tab.run("document.querySelector('#details').open")


async def test_an_alert_of_which_nothing_was_told_says_so(tab: Tab) -> None:
    await tab.click("#alerts button", "history")
    await until_shows(tab, "#details-body", "Nothing was told, as far back as notifications are kept.")


async def test_the_attempts_of_a_dead_letter_are_listed_with_the_words_of_the_receiver(
    tab: Tab, overview: FakeOverview
) -> None:
    overview.failed = {
        DEAD.id: [
            Attempt(at=1_700_000_001.5, reason="timeout", detail=""),
            Attempt(at=1_700_000_002.0, reason="rejected", detail="422 <i>no</i>"),
        ]
    }
    await tab.click("#dead button", "3 attempts")
    shown = await until_shows(tab, "#details[open] #details-body", "timeout", "no details", "rejected", "422 <i>no</i>")
    assert shown.index("timeout") < shown.index("rejected")
    assert await tab.text("#details-title") == "Attempts"


@pytest.mark.parametrize(("attempts", "says"), [(0, "It was never sent."), (3, "The attempts were not kept.")])
async def test_attempts_that_are_not_there_are_said_to_be_so(
    tab: Tab, overview: FakeOverview, attempts: int, says: str
) -> None:
    overview.records = [replace(DEAD, attempts=attempts)]
    await tab.click("#dead button", f"{attempts} attempts")
    await until_shows(tab, "#details[open] #details-body", says)


async def test_a_ledger_that_cannot_be_read_says_so_in_the_dialog(tab: Tab, overview: FakeOverview) -> None:
    overview.alert_list = [LATE]
    await until_shows(tab, "#alerts", "late")
    overview.fault = LedgerError("tocsin.db: the disk is full; make room", LedgerReason.FULL)
    await tab.click("#alerts button", "history")
    await until_shows(tab, "#details[open] #details-body", "tocsin.db: the disk is full; make room")


async def test_a_channel_that_refuses_everything_stands_out(tab: Tab, overview: FakeOverview) -> None:
    """In red, with the reason, and at the top of the page."""
    why = "the last 400 notifications were given up on, the latest for: not_found: 404"
    overview.channel_list = [replace(overview.channel_list[0], state="refusing", message=why, dead=400)]
    await until_shows(tab, "#channels .tag.bad", "refusing")
    await until_shows(tab, "#channels .why.bad", why)
    await until_shows(tab, "#trouble", "1 channel not delivering, 400 dead letters")


async def test_an_alert_whose_source_refuses_everything_stands_out(tab: Tab, overview: FakeOverview) -> None:
    """As one whose source is in error."""
    overview.alert_list = [replace(LATE, state="refusing", message="the last 3 messages are not valid events")]
    await until_shows(tab, "#alerts .tag.bad", "refusing")
    await until_shows(tab, "#alerts .why.bad", "the last 3 messages are not valid events")


async def test_what_a_removed_channel_left_can_be_seen_and_dropped(tab: Tab, overview: FakeOverview) -> None:
    removed = ChannelStatus(name="old pager", type="", state="removed", message="no longer configured", dead=1)
    overview.channel_list = [replace(overview.channel_list[0], dead=0), removed]
    overview.records = [replace(DEAD, channel="old pager", reason="unrouted")]
    shown = await until_shows(tab, "#channels", "old pager", "removed", "no longer configured", "1 dead letter")
    assert shown.count("delivered") == 1, "what a removed channel has delivered is not known any more"
    await until_shows(tab, "#trouble", "1 dead letter")
    assert "not delivering" not in await tab.text("#trouble")
    await until_shows(tab, "#dead", "to old pager", "unrouted")
    await tab.run("window.confirm = () => true")
    await tab.click("#dead button", "Drop")
    await until_some(lambda: _gone(overview), "the order")


async def _gone(overview: FakeOverview) -> bool:
    return not overview.records

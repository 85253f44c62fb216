"""The status page in a real browser, controlled over its DevTools protocol."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.waiting import SOON, seen, until_some
from support.web import ACME, DEAD, ENDED, FIRED, LATE, PEOPLE, FakeProcess, Start
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Attempt

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH"),
    pytest.mark.xdist_group("browser"),  # one starts for all
]


class Tab:
    """A page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0

    async def open(self, url: str) -> None:
        await self._call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression. An exception in it is an AssertionError."""
        answer = await self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def click(self, selector: str, text: str) -> None:
        """Click the first element of a selector that has this text, once it is there."""
        element = f"[...document.querySelectorAll({selector!r})].find((one) => one.textContent === {text!r})"
        await until_some(lambda: self.run(f"Boolean({element})"), f"{selector} {text!r}")
        await self.run(f"{element}.click()")

    async def text(self, selector: str) -> str:
        """The visible text of an element; empty where there is none."""
        return str(await self.run(f"document.querySelector({selector!r})?.innerText ?? ''"))

    async def _call(self, method: str, **parameters: Any) -> Any:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        async with asyncio.timeout(SOON):
            while (answer := await self._socket.receive_json()).get("id") != self._calls:
                pass
        assert "error" not in answer, answer
        return answer["result"]


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """A running browser; its address."""
    assert CHROMIUM is not None
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    process = subprocess.Popen(
        (CHROMIUM, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    file = profile / "DevToolsActivePort"  # written once it listens
    try:
        seen(lambda: file.exists() and file.read_text(encoding="utf-8"), "a browser that listens", within=3 * SOON)
        yield f"http://127.0.0.1:{file.read_text(encoding='utf-8').split()[0]}"
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def new_tab(browser: str) -> AsyncIterator[Tab]:
    """A page of a browser for the length of the block."""
    async with aiohttp.ClientSession() as client:
        async with client.put(f"{browser}/json/new?about:blank") as answer:
            page = await answer.json()
        async with client.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            yield Tab(socket)
        async with client.get(f"{browser}/json/close/{page['id']}"):
            pass


@pytest.fixture
def process() -> FakeProcess:
    process = FakeProcess()
    process.channel_list = [{**PEOPLE, "dead": 1}]
    return process


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
async def tab(browser: str, start: Start) -> AsyncIterator[Tab]:
    """The page, as it is with `admin`."""
    client = await start(admin=True)
    async with new_tab(browser) as opened:
        await opened.open(str(client.make_url("/")))
        yield opened


async def until_shows(tab: Tab, selector: str, *parts: str) -> str:
    """Wait until the page shows all of these."""

    async def check() -> str:
        text = await tab.text(selector)
        for part in parts:
            assert part in text, f"{part!r} is not in {text!r}"
        return text

    return await until_some(check)


async def cells(tab: Tab, name: str) -> list[str]:
    """A column of the table in the dialog."""
    script = f"[...document.querySelectorAll('#details-body td[data-name={name}]')].map((one) => one.innerText.trim())"
    return [" ".join(text.split()) for text in await tab.run(script)]


async def test_history_shows_active_ended_and_unknown_ends(tab: Tab, process: FakeProcess) -> None:
    fired = replace(ENDED, ended_at=None, kind="fired", deliveries={})
    event = replace(ENDED, alert="late", ended_at=ENDED.started_at, kind="event", row=(None, *ACME[1:]))
    process.outbox.history = [replace(fired, firing=True), fired, ENDED, event]
    await tab.click("#alerts button", "history")
    await until_shows(tab, "#details[open] #details-body", "still firing")
    assert await tab.text("#details-title") == "History of late"
    assert await cells(tab, "duration") == ["still firing", "ended, time not kept", "2.5 s", "event"]
    *labels, columns = await cells(tab, "row")
    assert labels == ["customer <b>Acme</b>"] * 3, "text from a row is text"
    assert "iban DE89" in columns, "without labels, the columns are shown"
    assert (await cells(tab, "deliveries"))[2:] == ["people 2 delivered pager 1 dead"] * 2
    assert await tab.run("document.querySelector('#details-body time').dateTime") == "2023-11-14T22:13:20.000Z"
    await tab.click("#details button", "Close")
    assert not await tab.run("document.querySelector('#details').open")


async def test_attempts_are_listed_or_explained(tab: Tab, process: FakeProcess) -> None:
    process.outbox.records = [DEAD, replace(DEAD, id="e", attempts=0), replace(DEAD, id="g", attempts=2)]
    process.outbox.failed = {
        DEAD.id: [
            Attempt(at=1_700_000_001.5, reason="timeout", detail=""),
            Attempt(at=1_700_000_002.0, reason="rejected", detail="422 <i>no</i>"),
        ]
    }
    await tab.click("#dead button", "3 attempts")
    shown = await until_shows(tab, "#details[open] #details-body", "timeout", "no details", "rejected", "422 <i>no</i>")
    assert shown.index("timeout") < shown.index("rejected")
    assert await tab.text("#details-title") == "Attempts"
    for attempts, text in ((0, "No attempt was made."), (2, "The attempts are no longer kept.")):
        await tab.click("#details button", "Close")
        await tab.click("#dead button", f"{attempts} attempts")
        await until_shows(tab, "#details[open] #details-body", text)


async def test_missing_history_is_explained(tab: Tab, process: FakeProcess) -> None:
    await tab.click("#alerts button", "history")
    await until_shows(tab, "#details-body", "No notifications of this alert are kept.")
    process.outbox.fault = LedgerError("tocsin.db: the disk is full; make room", LedgerReason.FULL)
    await tab.click("#details button", "Close")
    await tab.click("#alerts button", "history")
    await until_shows(tab, "#details[open] #details-body", "tocsin.db: the disk is full; make room")


async def test_refusing_channel_and_source_are_red(tab: Tab, process: FakeProcess) -> None:
    """With the reason, and the channel also at the top of the page."""
    why = "the last 400 notifications were given up on, the latest for: not_found: 404"
    process.channel_list = [{**PEOPLE, "state": "refusing", "message": why, "dead": 400}]
    process.alert_list = [{**LATE, "state": "refusing", "message": "the last 3 messages are not valid events"}]
    await until_shows(tab, "#channels .tag.bad", "refusing")
    await until_shows(tab, "#channels .why.bad", why)
    await until_shows(tab, "#trouble", "1 channel not delivering, 400 dead letters")
    await until_shows(tab, "#alerts .tag.bad", "refusing")
    await until_shows(tab, "#alerts .why.bad", "the last 3 messages are not valid events")


async def test_long_lists_are_folded(tab: Tab, process: FakeProcess) -> None:
    """Five dead letters and ten transitions, and the others when asked for."""
    process.outbox.records = [replace(DEAD, id=str(number)) for number in range(7)]
    process.feed.publish([FIRED] * 12)
    for part, few, button, all_ in (("#dead", 5, "Show 7", 7), ("#recent", 10, "Show 12", 12)):
        items = f"document.querySelectorAll('{part} li').length"
        await until_some(lambda items=items, few=few: _equal(tab, items, few), f"{few} items")  # type: ignore[misc]
        await tab.click(f"{part} button", button)
        await until_some(lambda items=items, all_=all_: _equal(tab, items, all_), f"{all_} items")  # type: ignore[misc]


async def _equal(tab: Tab, script: str, value: object) -> bool:
    return bool(await tab.run(script) == value)


async def test_dead_letters_of_removed_channel_are_droppable(tab: Tab, process: FakeProcess) -> None:
    removed = {**PEOPLE, "name": "old pager", "type": "", "state": "removed", "message": "no longer configured"}
    process.channel_list = [PEOPLE, {**removed, "dead": 1}]
    process.outbox.records = [replace(DEAD, channel="old pager", reason="unrouted")]
    shown = await until_shows(tab, "#channels", "old pager", "removed", "no longer configured", "1 dead letter")
    assert shown.count("delivered") == 1, "what a removed channel has delivered is not known any more"
    await until_shows(tab, "#trouble", "1 dead letter")
    assert "not delivering" not in await tab.text("#trouble")
    await until_shows(tab, "#dead", "to old pager", "unrouted")
    await tab.run("window.confirm = () => true")
    await tab.click("#dead button", "Drop")
    await until_some(lambda: _gone(process), "the drop")


async def _gone(process: FakeProcess) -> bool:
    return not process.outbox.records

"""The status page in a real browser."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from support.browser import CHROMIUM, Tab, chromium, new_tab
from support.waiting import until_equal, until_some
from support.web import ACME, DEAD, ENDED, FIRED, INSTANCE, LATE, PEOPLE, FakeProcess, Start, firing
from tocsin.cli.tables import cell
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Attempt

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH"),
    pytest.mark.xdist_group("browser"),  # one starts for all
]


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


async def until_runs(tab: Tab, script: str, value: object) -> None:
    """Wait until a script has this value."""
    await until_equal(lambda: tab.run(script), value, script)


async def until_text(tab: Tab, selector: str, text: str) -> None:
    """Wait until an element shows just this."""
    await until_equal(lambda: tab.text(selector), text, selector)


async def cells(tab: Tab, name: str) -> list[str]:
    """A column of the table in the dialog."""
    script = f"[...document.querySelectorAll('#details-body td[data-name={name}]')].map((one) => one.innerText.trim())"
    return [" ".join(text.split()) for text in await tab.run(script)]


async def test_history_shows_active_ended_and_unknown_ends(tab: Tab, process: FakeProcess) -> None:
    fired = replace(ENDED, ended_at=None, kind="fired", deliveries={})
    event = replace(ENDED, alert="late", ended_at=ENDED.started_at, kind="event", row=(None, *ACME[1:]))
    process.outbox.history = [replace(fired, firing=True), fired, ENDED, event]
    await tab.click("#alerts [data-key='history late']", "history")
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


# A page of many alerts.


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


async def fill(tab: Tab, text: str) -> None:
    """Type into the filter, which a key focuses."""
    await tab.run("document.activeElement.blur()")
    await tab.press("/", 191, "/")
    await tab.run("document.activeElement.select()")
    for letter in text:
        await tab.press(letter, ord(letter.upper()), letter)


async def test_alerts_and_channels_in_trouble_are_first(tab: Tab, process: FakeProcess) -> None:
    """Then alerts that fire; ten of each, and the others when asked for."""
    sixty(process)
    await until_names(tab, "#alerts", "broken", *(f"alert-{n}" for n in range(0, 27, 3)))
    await until_names(tab, "#channels", "pager", *(f"channel-{n}" for n in range(9)))
    assert await tab.text("#alerts-title") == "Alerts 60"
    process.reasons = [f"alert alert-{n}: no answer" for n in range(9)]
    await until_runs(tab, "document.querySelectorAll('#unready li').length", 5)
    await tab.click("#alerts button", "Show 60")
    await until_runs(tab, "document.querySelectorAll('#alerts li').length", 60)
    assert await tab.run("document.querySelectorAll('#firing h3').length") == 8, "cards of twenty alerts"
    await tab.click("#firing button", "Show 20")
    await until_runs(tab, "document.querySelectorAll('#firing h3').length", 20)
    await tab.click("#firing button", "Show fewer")
    await until_runs(tab, "document.querySelectorAll('#firing h3').length", 8)


async def test_filter_finds_alerts_channels_and_rows(tab: Tab, process: FakeProcess) -> None:
    """By all of its words. It stays when the page is loaded again."""
    sixty(process)
    process.outbox.records = [replace(DEAD, channel="pager"), replace(DEAD, id="e", alert="alert-6")]
    await until_shows(tab, "#alerts", "broken")
    await fill(tab, "ERROR gone")
    await until_names(tab, "#alerts", "broken")
    assert await tab.text("#alerts-title") == "Alerts 1 of 60"
    assert await tab.text("#matches") == "1 alert, 0 channels found, rows of 0 alerts"
    assert "The filter finds none." in await tab.text("#channels")
    await fill(tab, "pager")
    await until_names(tab, "#channels", "pager")
    await until_names(tab, "#dead", "late")
    await fill(tab, "acme alert-57")
    await until_text(tab, "#firing h3 bdi", "alert-57")
    assert await tab.run("location.search") == "?filter=acme+alert-57"
    await tab.reload()
    await until_text(tab, "#firing h3 bdi", "alert-57")
    assert await tab.run("document.querySelector('#filter').value") == "acme alert-57"


async def test_address_with_section_begins_there(tab: Tab, process: FakeProcess) -> None:
    """Also after the lists above it have come."""
    sixty(process)
    await until_shows(tab, "#alerts", "broken")
    await tab.resize(360, 640)
    await tab.run("location.hash = '#channels-title'")
    await tab.reload()
    await until_shows(tab, "#channels", "pager")
    top = "Math.round(document.querySelector('#channels-title').getBoundingClientRect().top)"
    await until_runs(tab, f"{top} >= 0 && {top} < 640", value=True)


@pytest.mark.parametrize(("width", "height"), [(360, 640), (1280, 800)])
async def test_channels_and_dead_letters_are_one_link_away(
    tab: Tab, process: FakeProcess, width: int, height: int
) -> None:
    """The links are in the first view, and the section is in the view after it; nothing is wider than the screen."""
    await tab.resize(width, height)
    sixty(process)
    await until_shows(tab, "#trouble", "1 channel not delivering, 5,000 dead letters")

    async def top(selector: str) -> int:
        return int(await tab.run(f"document.querySelector({selector!r}).getBoundingClientRect().top"))

    for link, section in (
        (".bar a[href='#channels-title']", "#channels-title"),
        ("#trouble a[href='#dead-title']", "#dead-title"),
        ("#trouble a[href='#channels-title']", "#channels-title"),
        ("#channels .facts a[href='#dead-title']", "#dead-title"),
    ):
        if not link.startswith("#channels"):
            await tab.run("scrollTo(0, 0)")
            assert 0 <= await top(link) < height
        await tab.run(f"document.querySelector({link!r}).click()")
        assert 0 <= await top(section) < height
    assert await tab.run("document.documentElement.scrollWidth") <= width


# Rows.


async def test_summary_is_the_first_line_of_a_row(tab: Tab, process: FakeProcess) -> None:
    """Of rows that fire, dead letters, transitions and episodes; the labels come after it."""
    process.summary = "{{ labels.customer }} waits"
    process.outbox.history = [ENDED]
    process.feed.publish([FIRED])
    await until_shows(tab, "#firing tbody", "<b>Acme</b> waits\n\n<b>Acme</b>")
    await until_shows(tab, "#dead li", "<b>Acme</b> waits\ncustomer <b>Acme</b>")
    await until_shows(tab, "#recent li", "<b>Acme</b> waits\ncustomer <b>Acme</b>")
    await tab.click("#alerts [data-key='history late']", "history")
    await until_shows(tab, "#details-body", "<b>Acme</b> waits\ncustomer <b>Acme</b>")


async def test_long_label_is_cut_and_opens_by_keyboard(tab: Tab, process: FakeProcess) -> None:
    """The whole of it is its title as well. It stays open, with the focus, when the list is made again."""
    whole = "a label of three hundred characters " * 9
    row = firing(1)
    process.fired = {"late": [replace(row, row=(whole, *row.row[1:]))]}
    cut = await until_shows(tab, "#firing td .long", "a label of three")
    assert len(cut) < 80
    assert await tab.run("document.querySelector('#firing .long summary').title") == whole
    await tab.run("document.querySelector('#firing .long summary').focus()")
    await tab.press("Enter", 13, "\r")
    await until_text(tab, "#firing .long > bdi", whole.strip())
    process.fired["late"].append(firing(2))
    await until_runs(tab, "document.querySelectorAll('#firing tbody').length", 2)
    assert await tab.text("#firing .long > bdi") == whole.strip()
    assert await tab.run("document.activeElement.matches('#firing .long summary')")


async def test_numbers_are_written_as_by_commands(tab: Tab, process: FakeProcess) -> None:
    values = [7500.0, 0.1 + 0.2, -2.5, 1234567.891, 1e-7, 1e16, 1e21, 0.0]
    process.fired = {"late": [firing(n, repr(value)) for n, value in enumerate(values)]}
    await until_shows(tab, "#firing", "7500")
    script = "[...document.querySelectorAll('#firing td.number')].map((one) => one.innerText)"
    assert await tab.run(script) == [cell(value) for value in values]


async def test_keyboard_and_screen_reader_reach_everything(tab: Tab, process: FakeProcess) -> None:
    """Fields have labels, what can be clicked has the focus in turn, and keeps it while the page changes."""
    sixty(process)
    await until_shows(tab, "#alerts", "broken")
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter((one) => !one.labels.length).length"
    assert await tab.run(unnamed) == 0
    script = """[...document.querySelectorAll('a, button, summary')].filter((one) => one.tabIndex < 0
        || !one.textContent.trim()).length"""
    assert await tab.run(script) == 0
    headings = "document.getElementById(one.getAttribute('aria-labelledby'))"
    assert await tab.run(f"[...document.querySelectorAll('section')].every((one) => {headings})")
    await tab.run("document.querySelector('#alerts [data-key=\"history alert-0\"]').focus()")
    process.alert_list[0] = {**process.alert_list[0], "gaps": 7}
    await until_shows(tab, "#alerts", "7 gaps")
    assert await tab.run("document.activeElement.dataset.key") == "history alert-0"
    await tab.press("Enter", 13, "\r")
    await until_shows(tab, "#details[open]", "History of alert-0")
    await tab.press("Escape", 27)
    await until_runs(tab, "document.activeElement.dataset.key", "history alert-0")


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
    await until_shows(tab, "#alerts", "lost")
    assert "led by" not in await tab.text("#alerts")
    assert await tab.run("document.querySelector('#instances-part').hidden")
    assert "Processes" not in await tab.text("nav")
    process.instance_list = OTHERS
    await until_shows(tab, "#instances", "process 7 on host-a", "this one", "leads 1 alert", "leads none")
    await until_shows(tab, "#alerts", "led by this process", "led by process 9 on host-b")
    await until_shows(tab, "nav", "Processes 4")
    links = "[...document.querySelectorAll('#instances a')].map((one) => one.href)"
    assert await tab.run(links) == ["http://127.0.0.1:8628/", "https://host-b:8627/"]
    assert "http://127.0.0.1:8627" in await tab.text("#instances"), "that of another machine is text"


@pytest.mark.parametrize("width", [360, 1280])
async def test_processes_fit_on_every_screen(tab: Tab, process: FakeProcess, width: int) -> None:
    name = f"process 4711 on {'tocsin-' * 12}0"
    process.instance_list = [INSTANCE, {**INSTANCE, "name": name, "address": f"http://{'x' * 90}:8627", "this": False}]
    process.alert_list = [{**LATE, "leader": {"name": name, "this": False}}]
    await tab.resize(width, 800)
    await until_shows(tab, "#instances", name)
    assert await tab.run("document.documentElement.scrollWidth") <= width

"""The status page in a real browser."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.browser import CHROMIUM, Tab
from support.clock import Clock
from support.crowd import NAMES, Crowd
from support.page import fill, go, until_runs, until_shows, until_text
from support.waiting import until_equal
from support.web import ACME, DEAD, ENDED, FIRED, INSTANCE, LATE, PEOPLE, FakeProcess, firing
from support.why import WHY
from tocsin.cli.tables import cell
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Attempt
from tocsin.ledger.sqlite import open_ledger
from tocsin.web import views

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH"),
    pytest.mark.xdist_group("browser"),  # one starts for all
]


@pytest.fixture
def process() -> FakeProcess:
    process = FakeProcess()
    process.channel_list = [{**PEOPLE, "dead": 1}]
    return process


async def cells(tab: Tab, name: str) -> list[str]:
    """A column of the table of firings."""
    script = f"[...document.querySelectorAll('section td[data-name={name}]')].map((one) => one.innerText.trim())"
    return [" ".join(text.split()) for text in await tab.run(script)]


# Alerts.


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


# Channels.


async def test_refusing_channel_and_source_are_red(tab: Tab, process: FakeProcess) -> None:
    """With the reason, and the channel also at the top of the page."""
    why = "the last 400 notifications were given up on, the latest for: not_found: 404"
    process.channel_list = [{**PEOPLE, "state": "refusing", "message": why, "dead": 400, "failed": 400}]
    process.alert_list = [{**LATE, "state": "refusing", "message": "the last 3 messages are not valid events"}]
    await until_shows(tab, "#trouble", "1 channel not delivering, 400 dead letters")
    await go(tab, "channels")
    await until_shows(tab, "#channels .tag.bad", "refusing")
    await until_shows(tab, "#channels", "The receiver answers, and refuses one notification after another.")
    await until_shows(tab, "#channels .why.bad", why)
    await go(tab, "alerts")
    await until_shows(tab, "#alerts .tag.bad", "refusing")
    await until_shows(tab, "#alerts .why.bad", "the last 3 messages are not valid events")


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


async def test_configuration_is_reloaded_from_the_page(tab: Tab, process: FakeProcess) -> None:
    process.problems = ["alerts.late: <b>no source</b>"]
    await until_runs(tab, "document.querySelector('#reload').hidden", value=False)
    await tab.click("button", "reload the configuration")
    await until_shows(
        tab, "footer", "The configuration was refused; the last good one stays in use.", "<b>no source</b>"
    )
    tab.problems.clear()  # the answer 500
    process.problems = []
    await tab.click("button", "reload the configuration")
    await until_shows(tab, "footer", "The configuration was reloaded.")


def _records(process: FakeProcess) -> Callable[[], Awaitable[list[str]]]:
    async def ids() -> list[str]:
        return [one.id for one in process.outbox.records]

    return ids


# Silences.


async def test_silence_is_made_of_what_is_filtered_and_ended(tab: Tab, process: FakeProcess, tmp_path: Path) -> None:
    """The rows show that they are silenced meanwhile."""
    ledger = process.ledger = open_ledger(tmp_path / "tocsin.db", clock=Clock(1_700_000_000.0))
    await go(tab, 'firing?alert=late&match=customer%3D~"<b>.*"')
    await tab.click("a", "Silence these")
    matchers = """alertname="late", customer=~"<b>.*\""""
    await until_runs(tab, "document.querySelector('#silence-matchers')?.value", matchers)
    await until_shows(tab, "#silence-preview", "Matches 2 rows of 1 alert now, and 0 pending notifications.")
    await tab.run("document.querySelector('#silence-reason').value = 'the warehouse <b>moves'")
    await tab.click("button", "Silence")
    await until_shows(tab, "#silences", "active", matchers, "the warehouse <b>moves")
    await tab.click("#silences a", "rows that match")
    await until_shows(tab, ".rows", "silenced")
    await tab.click(".rows a.tag", "silenced")
    await tab.run("window.confirm = () => true")
    await tab.click("#silences button", "End")
    await until_shows(tab, "#silences", "expired")
    await go(tab, "firing")
    await until_runs(tab, "document.querySelectorAll('.rows a.summary').length", 2)
    assert "silenced" not in await tab.text(".rows")
    await ledger.close()


async def test_wrong_matchers_are_explained(tab: Tab) -> None:
    await go(tab, "silences?matchers=late")
    await until_shows(tab, "#silence-preview", "expected one of =, !=, =~, !~")
    tab.problems.clear()  # the answer 400
    await go(tab, "firing?match=region")
    await until_shows(tab, "main .why.bad", "expected one of =, !=, =~, !~")
    tab.problems.clear()


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


# Rows.


async def rows(tab: Tab) -> list[str]:
    """The names of the rows that are shown, which are their first lines."""
    return list(await tab.run("[...document.querySelectorAll('.rows a.summary')].map((one) => one.innerText)"))


async def test_summary_is_the_first_line_of_a_row(tab: Tab, process: FakeProcess) -> None:
    """Of rows that fire, dead letters, transitions and episodes; the labels come after it."""
    process.summary = "{{ labels.customer }} waits"
    process.outbox.history = [ENDED]
    process.feed.publish([FIRED])
    process.fired = {"late": [firing(1)]}
    await until_shows(tab, ".rows tbody", "<b>Acme</b> waits\nlate\ncustomer <b>Acme</b>")
    for view in ("dead", "transitions", "alerts/late"):
        await go(tab, view)
        await until_shows(tab, "main", "<b>Acme</b> waits\ncustomer <b>Acme</b>")


async def choose(tab: Tab, name: str, value: str) -> None:
    """Choose from one of the lists above the rows."""
    place = f"document.querySelector('select[data-key={name}]')"
    await tab.run(f"{place}.value = {value!r}")
    await tab.run(f"{place}.dispatchEvent(new Event('change'))")


async def test_rows_are_filtered_by_alert_and_severity_and_sorted(tab: Tab, process: FakeProcess) -> None:
    crowd = Crowd(rows=400)
    process.fired, process.alert_list, process.summary = crowd.fired, crowd.alert_list, crowd.summary
    process.alert, process.rows = crowd.alert, crowd.rows  # type: ignore[method-assign]
    await until_shows(tab, "#title", "Firing now 374")
    assert len(await rows(tab)) == 50
    await tab.click("button", "Next")
    await until_shows(tab, ".pages", "51 to 100 of 374")
    await choose(tab, "alert", NAMES[0])
    await until_shows(tab, "#title", "Firing now 200 of 374")
    await choose(tab, "severity", "critical")
    await until_shows(tab, "#title", "Firing now 50 of 374")
    await choose(tab, "sort", "-value")
    await until_runs(tab, "document.querySelector('.rows td.number').innerText", "896.5")
    await tab.click("th button", "value")
    await until_runs(tab, "document.querySelector('.rows td.number').innerText", "0.5")
    assert await tab.run("document.querySelector('th[data-sort=value]').ariaSort") == "ascending"


async def test_long_label_is_cut_and_opens_by_keyboard(tab: Tab, process: FakeProcess) -> None:
    """The whole of it is its title as well. It stays open, with the focus, when other rows come."""
    whole = "a label of three hundred characters " * 9
    row = firing(1)
    process.fired = {"late": [replace(row, row=(whole, *row.row[1:]))]}
    cut = await until_shows(tab, ".rows .long", "a label of three")
    assert len(cut) < 80
    assert await tab.run("document.querySelector('.rows .long summary').title") == whole
    await tab.run("document.querySelector('.rows .long summary').focus()")
    await tab.press("Enter", 13, "\r")
    await until_text(tab, ".rows .long > bdi", whole.strip())
    process.fired["late"].append(firing(2))
    await until_runs(tab, "document.querySelectorAll('.rows tbody tr').length", 2)
    assert await tab.text(".rows .long > bdi") == whole.strip()
    assert await tab.run("document.activeElement.matches('.rows .long summary')")


async def test_numbers_are_written_as_by_commands(tab: Tab, process: FakeProcess) -> None:
    values = [7500.0, 0.1 + 0.2, -2.5, 1234567.891, 1e-7, 1e16, 1e21, 0.0]
    process.fired = {"late": [firing(n, repr(value)) for n, value in enumerate(values)]}
    script = "[...document.querySelectorAll('.rows td.number')].map((one) => one.innerText)"
    await until_runs(tab, script, [cell(value) for value in values])


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

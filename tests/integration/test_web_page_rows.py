"""The status page in a real browser: the rows that fire, and the silences that are made of them."""

from dataclasses import replace
from pathlib import Path

from support.browser import Tab
from support.clock import Clock
from support.crowd import NAMES, Crowd
from support.page import IN_BROWSER, go, until_runs, until_shows, until_text
from support.web import ENDED, FIRED, FakeProcess, firing
from tocsin.cli.tables import cell
from tocsin.ledger.sqlite import open_ledger

pytestmark = IN_BROWSER


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
    await go(tab, "silences?matchers=alertname%3Dlata")
    await until_shows(tab, "#silence-preview", "Warning: no alert", "did you mean late?", "Matches nothing now.")
    await ledger.close()


async def test_wrong_matchers_are_explained(tab: Tab) -> None:
    await go(tab, "silences?matchers=late")
    await until_shows(tab, "#silence-preview", "expected one of =, !=, =~, !~")
    tab.problems.clear()  # the answer 400
    await go(tab, "firing?match=region")
    await until_shows(tab, "main .why.bad", "expected one of =, !=, =~, !~")
    tab.problems.clear()

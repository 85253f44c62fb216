"""The status page in a tab of a browser."""

import pytest

from support.browser import CHROMIUM, Tab
from support.waiting import until_equal, until_some

IN_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH"),
    pytest.mark.xdist_group("browser"),  # one starts for all
]


async def go(tab: Tab, view: str) -> None:
    """Open a view."""
    await tab.run(f"location.hash = '#/{view}'")


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


async def fill(tab: Tab, text: str) -> None:
    """Type into the search, which a key focuses."""
    await tab.run("document.activeElement.blur()")
    await tab.press("/", 191, "/")
    for letter in text:
        await tab.press(letter, ord(letter.upper()), letter)

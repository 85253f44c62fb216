"""The status page behind a password, in a real browser."""

from pathlib import Path

from support.browser import Tab, new_tab
from support.page import IN_BROWSER
from support.port import Listening, hashed, listening
from support.waiting import until_some
from support.web import DEAD, PEOPLE

pytestmark = IN_BROWSER
USERS = {"basic_auth_users": {"ann": hashed("rings"), "bob": hashed("rings")}}


async def log_in(tab: Tab, port: Listening, user: str) -> None:
    """Open the page as if the user had typed the password into the browser's window, which it keeps."""
    port.process.channel_list = [{**PEOPLE, "dead": 1}]
    await tab.open(port.url.replace("://", f"://{user}:rings@") + "/api/v1/status")
    assert '"version"' in await tab.text("body")
    await tab.open(port.url + "/#/dead")

    async def shown() -> bool:
        return "to people" in await tab.text("#dead")

    await until_some(shown, "the dead letter")


async def test_admin_retries_on_the_page_with_the_browsers_password(browser: str, tmp_path: Path) -> None:
    async with listening(tmp_path, USERS, admin=True, admins=["ann"]) as port, new_tab(browser) as tab:
        await log_in(tab, port, "ann")
        await tab.run("window.confirm = () => true")
        await tab.click("#dead button", "Drop")

        async def dropped() -> bool:
            return DEAD not in port.process.outbox.records

        await until_some(dropped, "the drop")


async def test_reader_sees_no_buttons_that_change_something(browser: str, tmp_path: Path) -> None:
    async with listening(tmp_path, USERS, admin=True, admins=["ann"]) as port, new_tab(browser) as tab:
        await log_in(tab, port, "bob")
        buttons = await tab.run("[...document.querySelectorAll('#dead button')].map((one) => one.textContent)")
        assert buttons == []
        assert "or this page with the role admin" in await tab.text("main"), "how they are retried"

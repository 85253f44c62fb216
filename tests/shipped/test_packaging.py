"""The built package, apart from the checkout: it holds all that it needs, installs, and runs."""

import asyncio
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.receiver import Receiver
from support.tocsin import running

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "exporter" / "tocsin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    build = [
        str(uv),
        "build",
        "--wheel",
        "--offline",
        "--no-build-isolation",
        "--out-dir",
        str(folder),
        str(ROOT / "exporter"),
    ]
    done = subprocess.run(build, capture_output=True, text=True, env={**os.environ, "VIRTUAL_ENV": sys.prefix})
    assert done.returncode == 0, done.stderr
    [made] = folder.glob("*.whl")
    return made


def test_it_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "tocsin"], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert held == {name for name in tracked.stdout.split() if (PACKAGE.parent / name).exists()}


async def test_installed_from_the_wheel_it_takes_an_event_in_and_delivers_it(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Before the checkout, which the environment of these tests has installed as it stands.
    monkeypatch.setenv("PYTHONPATH", str(site))
    where = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import tocsin; print(tocsin.__file__)", stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    printed, _ = await where.communicate()
    assert printed.decode().startswith(str(site))
    async with Receiver() as receiver:
        config = {
            "ledger": {"path": str(tmp_path / "tocsin.db")},
            "web": {"listen": "127.0.0.1:0"},
            "sources": {"posted": {"type": "http", "token": "a-token-of-some-length"}},
            "channels": {"hook": {"type": "webhook", "url": receiver.url}},
            "alerts": {"orders": {"source": "posted", "notify": ["hook"]}},
        }
        async with running(tmp_path, config) as tocsin:
            await tocsin.until_ready()
            page = "/api/v1/events/orders"
            status, _ = await tocsin.post(page, b'{"id": 1}', Authorization="Bearer a-token-of-some-length")
            assert status == 202
            await receiver.arrived(1)
            assert (await tocsin.get("/"))[0] == 200

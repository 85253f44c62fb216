"""The built package has all its files, requires what it imports, installs and runs without the checkout."""

import ast
import asyncio
import email
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import aiohttp
import pytest

from support.receiver import Receiver
from support.tocsin import TocsinProcess, write
from support.waiting import SOON

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "exporter" / "tocsin"


def uv(*arguments: str) -> None:
    """Run uv, by default for the environment of these tests."""
    program = str(Path(sys.executable).with_name("uv"))
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--offline", "--no-build-isolation", "--out-dir", str(folder), str(ROOT / "exporter"))
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with this wheel, and with the libraries of these tests."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    uv("venv", "--offline", "--python", sys.executable, str(folder))
    uv("pip", "install", "--offline", "--no-deps", "--python", str(folder / "bin" / "python"), str(wheel))
    [site] = folder.glob("lib/python*/site-packages")
    # Behind its own packages. Links to the checkout in there count only in their own environment.
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"


async def start(directory: Path, *arguments: str | Path) -> asyncio.subprocess.Process:
    """Start a program without the environment variables of these tests."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *map(str, arguments), stdout=pipe, stderr=pipe, cwd=directory, env={"PATH": os.defpath}
    )


async def output(directory: Path, *arguments: str | Path) -> str:
    """The output of a program that succeeds."""
    process = await start(directory, *arguments)
    printed, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return printed.decode()


def test_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "tocsin"], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert files == {name for name in tracked.stdout.split() if (PACKAGE.parent / name).exists()}


async def test_installed_wheel_ingests_and_delivers_an_event(programs: Path, tmp_path: Path) -> None:
    where = await output(tmp_path, programs / "python", "-c", "import tocsin; print(tocsin.__file__)")
    assert where.startswith(str(programs.parent)), "imported from the checkout"
    assert (await output(tmp_path, programs / "tocsin", "version")).startswith("tocsin ")
    async with Receiver() as receiver, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SOON)) as session:
        config = {
            "ledger": {"path": str(tmp_path / "tocsin.db")},
            "web": {"listen": "127.0.0.1:0"},
            "sources": {"posted": {"type": "http", "token": "a-token-of-some-length"}},
            "channels": {"hook": {"type": "webhook", "url": receiver.url}},
            "alerts": {"orders": {"source": "posted", "notify": ["hook"]}},
        }
        file = write(tmp_path / "tocsin.yaml", config)
        process = await start(tmp_path, programs / "tocsin", "run", "--config", file)
        tocsin = TocsinProcess(process, file, session)
        try:
            await tocsin.listening()
            await tocsin.until_ready()
            page = "/api/v1/events/orders"
            status, _ = await tocsin.post(page, b'{"id": 1}', Authorization="Bearer a-token-of-some-length")
            assert status == 202
            await receiver.arrived(1)
            assert (await tocsin.get("/"))[0] == 200
        finally:
            await tocsin.kill()


def imports() -> Iterator[tuple[Path, str]]:
    """Each module of the package, and each library that it imports anywhere."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "tocsin"}:
                yield file.relative_to(PACKAGE), name


def distributions(requirements: Iterable[str]) -> set[str]:
    """The normalised names in requirements."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;(]", text, maxsplit=1)[0]).lower() for text in requirements}


PROVIDED_BY = {"httpx": "novu-py", "pydantic-core": "pydantic", "yarl": "aiohttp"}
"""Libraries that are part of the interface of another one, which therefore requires them."""


def test_package_and_extras_require_what_their_modules_import(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        written = email.message_from_bytes(archive.read(name))
    required: dict[str, list[str]] = {"": [], **{extra: [] for extra in written.get_all("Provides-Extra", [])}}
    for text in written.get_all("Requires-Dist", []):
        requirement, _, extra = text.partition("; extra == ")
        required[extra.strip("'\"")].append(requirement)
    providers = metadata.packages_distributions()
    used: set[str] = set()
    for module, library in imports():
        extras = [extra for extra in required if extra and extra in module.with_suffix("").parts]
        allowed = distributions([*required[""], *(text for extra in extras for text in required[extra])])
        allowed |= {inner for inner, outer in PROVIDED_BY.items() if outer in allowed}
        found = distributions(providers[library])
        used |= found
        assert found & allowed, f"{module} imports {library}: neither a dependency nor in the extras {extras}"
    assert distributions(text for texts in required.values() for text in texts) - used == set(), "nothing imports these"

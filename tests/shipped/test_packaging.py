"""The built package, apart from the checkout: it holds all that it needs, installs, and runs."""

import ast
import asyncio
import email
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
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
    """Run uv, for the environment of these tests unless it is told of another."""
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


def test_it_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "tocsin"], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert held == {name for name in tracked.stdout.split() if (PACKAGE.parent / name).exists()}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that has this wheel, and the libraries of the one of these tests."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    uv("venv", "--offline", "--python", sys.executable, str(folder))
    programs = folder / "bin"
    uv("pip", "install", "--offline", "--no-deps", "--python", str(programs / "python"), str(wheel))
    [site] = folder.glob("lib/python*/site-packages")
    # After its own: the links to the checkout that are there count only in the environment that they were made for.
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return programs


async def started(directory: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Start a program that knows nothing of the environment of these tests."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *arguments, stdout=pipe, stderr=pipe, cwd=directory, env={"PATH": os.defpath}
    )


async def printed(directory: Path, *arguments: str) -> str:
    """What a program that ends well prints."""
    process = await started(directory, *arguments)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@asynccontextmanager
async def running(program: Path, config: Path) -> AsyncIterator[TocsinProcess]:
    """The installed program at work. It is gone afterwards."""
    process = await started(config.parent, str(program), "run", "--config", str(config))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SOON)) as session:
        tocsin = TocsinProcess(process, config, session)
        try:
            yield await tocsin.listening()
        finally:
            await tocsin.kill()


async def test_installed_from_the_wheel_it_takes_an_event_in_and_delivers_it(installed: Path, tmp_path: Path) -> None:
    where = await printed(tmp_path, str(installed / "python"), "-c", "import tocsin; print(tocsin.__file__)")
    assert where.startswith(str(installed.parent)), "the checkout stood in for the wheel"
    assert (await printed(tmp_path, str(installed / "tocsin"), "version")).startswith("tocsin ")
    async with Receiver() as receiver:
        config = {
            "ledger": {"path": str(tmp_path / "tocsin.db")},
            "web": {"listen": "127.0.0.1:0"},
            "sources": {"posted": {"type": "http", "token": "a-token-of-some-length"}},
            "channels": {"hook": {"type": "webhook", "url": receiver.url}},
            "alerts": {"orders": {"source": "posted", "notify": ["hook"]}},
        }
        async with running(installed / "tocsin", write(tmp_path / "tocsin.yaml", config)) as tocsin:
            await tocsin.until_ready()
            page = "/api/v1/events/orders"
            status, _ = await tocsin.post(page, b'{"id": 1}', Authorization="Bearer a-token-of-some-length")
            assert status == 202
            await receiver.arrived(1)
            assert (await tocsin.get("/"))[0] == 200


def imported() -> Iterator[tuple[Path, str]]:
    """Each module of the package, and each library outside the standard one that it imports, anywhere in it."""
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
    """The names in requirements, as they are compared."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;(]", text, maxsplit=1)[0]).lower() for text in requirements}


LAYERS = {"httpx": "novu-py", "pydantic-core": "pydantic", "yarl": "aiohttp"}
"""Libraries whose objects are a part of what another one takes or gives, which therefore brings them."""


def test_whatever_a_module_imports_is_required_by_the_package_or_by_the_extra_of_that_kind(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        written = email.message_from_bytes(archive.read(name))
    required: dict[str, list[str]] = {"": [], **{extra: [] for extra in written.get_all("Provides-Extra", [])}}
    for text in written.get_all("Requires-Dist", []):
        requirement, _, extra = text.partition("; extra == ")
        required[extra.strip("'\"")].append(requirement)
    providers = metadata.packages_distributions()
    used: set[str] = set()
    for module, library in imported():
        extras = [extra for extra in required if extra and extra in module.with_suffix("").parts]
        there = distributions([*required[""], *(text for extra in extras for text in required[extra])])
        there |= {inner for inner, outer in LAYERS.items() if outer in there}
        found = distributions(providers[library])
        used |= found
        assert found & there, f"{module} imports {library}: neither a dependency nor in the extras {extras}"
    assert distributions(text for texts in required.values() for text in texts) - used == set(), "nothing imports these"

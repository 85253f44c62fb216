"""Servers that all processes of a test run share: the first test that needs one starts it, and it ends with the run.

The workers of pytest-xdist meet in a folder of the run. The main process holds a lock there; each server runs under a
guard, a process that waits for that lock and then ends the server, however the run ended.
"""

import contextlib
import fcntl
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_FOLDER = "TOCSIN_TEST_FOLDER"
"""The environment variable that has the folder of the run, for the workers."""
_ENDING = contextlib.ExitStack()
"""Releases the lock of the run, in the main process."""


def begin() -> None:
    """Begin a run, in the main process."""
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="tocsin-run-")
    _ENDING.enter_context(_lock(_run()))


def end() -> None:
    """End the run and its servers."""
    folder = _run().parent
    _ENDING.close()
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:  # a server may write until it has ended
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def shared(name: str, start: Callable[[Path], T]) -> T:
    """Return the server of this name. `start` starts it in an empty folder; other processes get a pickled copy of what
    it returns."""
    folder = _run().with_name(name)
    with _lock(folder.with_suffix(".lock")):
        started = folder.with_suffix(".pickle")
        if started.exists():
            copy: T = pickle.loads(started.read_bytes())
            return copy
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
        folder.mkdir()
        server = start(folder)
        started.write_bytes(pickle.dumps(server))
        return server


def guard() -> tuple[str, ...]:
    """What to put before a server's command. Start it in a session of its own."""
    return (sys.executable, "-S", __file__, str(_run()))


def _run() -> Path:
    return Path(os.environ[_FOLDER], "run")


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    subprocess.Popen(sys.argv[2:])
    with _lock(Path(sys.argv[1])):
        os.killpg(0, signal.SIGKILL)

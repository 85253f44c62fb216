"""A PostgreSQL that cannot outlive whoever asked for it. Run as a process of its own, on Python's library alone.

    python guardian.py INSTALLATION

It makes a temporary directory, starts a server there from the PostgreSQL under INSTALLATION, and prints one line of
JSON: `{"directory": ..., "port": ...}`, or `{"error": ...}`. It then waits until its standard input closes, which the
kernel sees to even when the parent is killed, stops the server and removes the directory.
"""

import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PORT = 5432  # names the socket's file; there is no TCP
START_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0

_LONGEST_SOCKET_PATH = 103  # macOS; Linux has four more
_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    # Nothing here is meant to survive a crash.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_connections": "40",
    "timezone": "UTC",
}


class StartError(Exception):
    """The server does not start; the text says why."""


def main(installation: Path) -> int:
    """Run until standard input closes; returns the exit code."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, _: stopping.append(number))
    directory = _temporary_directory()
    server: subprocess.Popen[bytes] | None = None
    try:
        server = _started(installation, directory, _account(directory))
        print(json.dumps({"directory": str(directory), "port": PORT}), flush=True)
        # The time limit is for a server that ends by itself and for signals, neither of which wakes select.
        while not stopping and server.poll() is None and not select.select([sys.stdin], [], [], 0.5)[0]:
            pass
    except (StartError, OSError, subprocess.SubprocessError) as error:
        # The parent may be gone already.
        with suppress(OSError):
            print(json.dumps({"error": str(error)}), flush=True)
        return 1
    finally:
        if server is not None:
            _stop(server)
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _temporary_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="tocsin-demo-"))
    if len(str(directory / f".s.PGSQL.{PORT}")) > _LONGEST_SOCKET_PATH:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="tocsin-demo-", dir="/tmp"))
    return directory


def _account(directory: Path) -> dict[str, Any]:
    """How to run PostgreSQL, which refuses to run as root: then as `nobody`, who is given the directory."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}


def _started(installation: Path, directory: Path, account: dict[str, Any]) -> subprocess.Popen[bytes]:
    try:
        _initialize(installation, directory, account)
    except (StartError, PermissionError):
        if not account:
            raise
        # An installation below somebody's private directory: nobody needs a copy of it. Opening up the directories
        # above it instead would change permissions that are not ours to change.
        installation = _copied(installation, directory / "programs")
        for path in (directory / "programs", *(directory / "programs").rglob("*")):
            os.chown(path, account["user"], account["group"], follow_symlinks=False)
        shutil.rmtree(directory / "data", ignore_errors=True)
        _initialize(installation, directory, account)
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    command: list[str | Path] = [
        installation / "bin" / "postgres",
        "-D",
        directory / "data",
        "-k",
        directory,
        *settings,
    ]
    log = directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, **account
        )
    try:
        _await_ready(server, directory / "data" / "postmaster.pid")
    except StartError as error:
        _stop(server)
        raise StartError(f"{error}: {_tail(log)}") from None
    return server


def _copied(installation: Path, to: Path) -> Path:
    """A copy of the programs and of the libraries that their wheel keeps beside the package, in the same places to one
    another: the programs look for them there."""
    package = installation.parent
    for part in (installation, package / ".dylibs", package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, to / part.relative_to(package.parent))
    return to / installation.relative_to(package.parent)


def _initialize(installation: Path, directory: Path, account: dict[str, Any]) -> None:
    # Trust, since only its owner (and root) can enter the directory with the socket.
    options = (
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
        "--username=postgres",
        "--no-sync",
        "--no-instructions",
    )
    done = subprocess.run(
        [installation / "bin" / "initdb", "-D", directory / "data", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=directory,
        text=True,
        check=False,
        timeout=START_TIMEOUT,
        **account,
    )
    if done.returncode:
        raise StartError(f"initdb failed: {' '.join(done.stderr.split())[-500:]}")


def _await_ready(server: "subprocess.Popen[bytes]", pid_file: Path) -> None:
    # The eighth line of this file is the server's state; pg_ctl goes by it too.
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(OSError):
            if pid_file.read_text().splitlines()[7:8] == ["ready   "]:
                return
        if server.poll() is not None:
            raise StartError("the server ended while it started")
        if time.monotonic() > deadline:
            raise StartError(f"the server was not ready within {START_TIMEOUT:g} s")
        time.sleep(0.01)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, by force
        server.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_TIMEOUT)
            return


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-5:])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

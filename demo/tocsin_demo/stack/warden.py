"""Starts processes for the demo and lets none outlive it. Run as a process of its own, on Python's library alone.

    python warden.py

It makes a temporary directory and then speaks in lines of JSON. Out: `{"directory": ...}`, `{"started": name, "pid":
...}`, `{"ended": name, "status": ...}` (negative: the signal), `{"refused": name, "error": ...}`. In: `{"start": name,
"command": [...], "log": file, "environment": {...}}`, `{"stop": name}`. When its standard input closes, which the
kernel sees to even when the demo is killed, it ends what still runs and removes the directory.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

GRACE = 4.0
"""Seconds that a process has to end by itself. What Tocsin might still want to send is of no use: its ledger goes with
the directory."""


class Warden:
    """The processes by name."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._watchers: list[threading.Thread] = []
        self._speaking = threading.Lock()

    def say(self, **message: Any) -> None:
        # The demo may be gone already.
        with suppress(OSError), self._speaking:
            print(json.dumps(message), flush=True)

    def obey(self, order: dict[str, Any]) -> None:
        if "start" in order:
            self._start(order)
        elif (process := self._running.get(order["stop"])) is not None:
            process.terminate()
            threading.Thread(target=self._insist, args=(process, GRACE), daemon=True).start()

    def end(self) -> None:
        """End everything; returns when all have ended."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process in self._running.values():
            self._insist(process, max(0.0, deadline - time.monotonic()))
        for watcher in self._watchers:
            watcher.join()

    def _start(self, order: dict[str, Any]) -> None:
        name = order["start"]
        try:
            with Path(order["log"]).open("ab") as log:
                process = subprocess.Popen(
                    order["command"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **order["environment"]},
                )
        except OSError as error:
            self.say(refused=name, error=error.strerror or str(error))
            return
        self._running[name] = process
        self.say(started=name, pid=process.pid)
        watcher = threading.Thread(target=self._watch, args=(name, process))
        watcher.start()
        self._watchers.append(watcher)

    def _watch(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        self.say(ended=name, status=process.wait())

    def _insist(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Run until standard input closes; returns the exit code."""
    # A terminal's signals are for the demo, which then closes our input. SIGTERM means us, and does the same.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    directory = tempfile.mkdtemp(prefix="tocsin-demo-")
    warden = Warden()
    try:
        warden.say(directory=directory)
        for line in sys.stdin:
            warden.obey(json.loads(line))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        warden.end()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

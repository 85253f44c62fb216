"""Ends the demo's processes when the demo is gone. A process of its own, on the standard library alone.

    python reaper.py DIRECTORY

Reads lines `PID SIGNAL`; a 0 for the signal means that the process has ended. Standard input closes when the demo ends,
even if it is killed. Then each process gets its signal, and after some seconds its whole group gets SIGKILL. The
directory is removed last.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE = 4.0  # seconds


def main(directory: str) -> None:
    # Ctrl-C and the end of the terminal are for the demo.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    registered: dict[int, int] = {}
    for line in sys.stdin:
        pid, number = map(int, line.split())
        registered[pid] = number
    running = {pid: number for pid, number in registered.items() if number}
    for pid, number in running.items():
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    deadline = time.monotonic() + GRACE
    while any(map(_runs, running)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        # Linux: an ended process whose new parent does not collect its status still has a pid.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])

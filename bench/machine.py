"""CPU time of other processes during a measurement."""

import os
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.report import Figure


class Machine:
    """Adds up over rounds. A round is this process and those that it starts and ends within it."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._others: list[float] = []

    @contextmanager
    def round(self) -> Iterator[None]:
        began, busy, own = time.monotonic(), _busy(), _own()
        yield
        others = (_busy() - busy) - (_own() - own)
        self._others.append(max(0.0, others) / (time.monotonic() - began))

    def figure(self, part: str) -> Figure:
        others = self._others
        return Figure(
            name=f"others on the {os.cpu_count()} cores during {part}, median of {len(others)} rounds",
            measured=f"{statistics.median(others):.2f} cores, {max(others):.2f} at most; load average before"
            f" {self._load:.1f}",
        )


def spread(values: Sequence[float]) -> str:
    """The least and the greatest of the rounds."""
    return f"{min(values):,.0f} to {max(values):,.0f}"


def _busy() -> float:
    """Processor seconds of the whole machine."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Processor seconds of this process and of those that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)

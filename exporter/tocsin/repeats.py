"""Rate-limited log lines: the first of a kind in full, then how many more there were.

5,000 notifications refused for one reason are two lines, not 5,000. The process calls `report` now and then, and
`flush` at the end, to log what has only been counted.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakSet

EVERY = 60.0
"""Seconds between two lines of one kind."""

_MOST_KINDS = 100
"""Kinds that are counted separately; any further ones are counted as one."""


@dataclass(slots=True)
class _Kind:
    since: float
    """When the last line was logged."""
    count: int = 0
    """How many came since."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Those of the latest."""


class Repeats:
    """One log line that may repeat. May be used from several threads."""

    def __init__(
        self,
        log: Any,
        event: str,
        *,
        level: Literal["info", "warning", "error"] = "warning",
        every: float = EVERY,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`log`: a structlog logger. `every`: seconds. `monotonic`: a clock in seconds that does not jump."""
        self._log = log
        self._level = level
        self._event = event
        self._every = every
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, ...], _Kind] = {}
        self._lock = threading.Lock()
        _ALL.add(self)

    def _write(self, event: str, **fields: Any) -> None:
        # Looked up now: the logger of a module is made before logs are configured.
        getattr(self._log, self._level)(event, **fields)

    def add(self, *kind: str, **fields: Any) -> None:
        """Log the line, or only count it if one of this kind was logged recently. A line for several has their number
        in `repeats`, and the other fields of the latest."""
        now = self._monotonic()
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
                kind = ()
            known = self._kinds.get(kind)
            if known is None:
                self._kinds[kind] = _Kind(since=now)
                self._write(self._event, **fields)
                return
            known.count += 1
            # One traceback is enough.
            known.fields = {name: value for name, value in fields.items() if name != "exc_info"}
            if now - known.since >= self._every:
                self._repeat(known, now)

    def report(self) -> None:
        """Log what has been counted for long enough. A kind with nothing to log starts over."""
        now = self._monotonic()
        with self._lock:
            for name, kind in list(self._kinds.items()):
                if now - kind.since < self._every:
                    continue
                if kind.count:
                    self._repeat(kind, now)
                else:
                    del self._kinds[name]

    def flush(self) -> None:
        """Log what has been counted, now, and start over."""
        with self._lock:
            for kind in self._kinds.values():
                if kind.count:
                    self._repeat(kind, kind.since)
            self._kinds.clear()

    def _repeat(self, kind: _Kind, now: float) -> None:
        self._write(self._event, **kind.fields, repeats=kind.count)
        kind.since, kind.count = now, 0


_ALL: WeakSet[Repeats] = WeakSet()


def report() -> None:
    """`Repeats.report` of every line."""
    for one in list(_ALL):
        one.report()


def flush() -> None:
    """`Repeats.flush` of every line: the process ends."""
    for one in list(_ALL):
        one.flush()

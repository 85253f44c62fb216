"""The log of Apprise and the libraries it uses, kept out of our log: it may hold tokens. It is also the only place that
says why a service failed."""

import contextlib
import logging
import threading
from collections.abc import Iterator

_OWN = ("apprise", "slixmpp")
"""Loggers that only Apprise uses, also in its own threads."""

_SHARED = ("gntp", "oauthlib", "paho", "pika", "requests", "requests_oauthlib", "smpplib", "urllib3")


class _Capture(logging.Handler):
    """Replaces the handlers of the loggers while something is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()
        self._changing = threading.Lock()
        self._active = 0
        self._before: list[tuple[logging.Logger, bool, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(self._thread, "lines", None)
        if lines is not None:
            if record.levelno >= logging.WARNING:
                with contextlib.suppress(Exception):  # a line that cannot be formatted does not fail the send
                    lines.append(record.getMessage())
        elif record.name.partition(".")[0] not in _OWN:
            # From another user of the same library: pass it on.
            logging.getLogger().callHandlers(record)

    @contextlib.contextmanager
    def captured(self) -> Iterator[list[str]]:
        lines: list[str] = []
        self._thread.lines = lines
        self._begin()
        try:
            yield lines
        finally:
            self._end()
            self._thread.lines = None

    def _begin(self) -> None:
        with self._changing:
            self._active += 1
            if self._active > 1:
                return
            for name in (*_OWN, *_SHARED):
                logger = logging.getLogger(name)
                self._before.append((logger, logger.propagate, logger.level))
                logger.propagate = False
                logger.addHandler(self)
                if name in _OWN:
                    logger.setLevel(logging.WARNING)

    def _end(self) -> None:
        with self._changing:
            self._active -= 1
            if self._active:
                return
            for logger, propagate, level in self._before:
                logger.setLevel(level)
                logger.removeHandler(self)
                logger.propagate = propagate
            self._before.clear()


_CAPTURE = _Capture()  # one for the process, as the loggers are


def captured() -> contextlib.AbstractContextManager[list[str]]:
    """Collect the warnings of the libraries in this thread, and keep all their lines out of the log. After the last
    thread, the loggers are as before."""
    return _CAPTURE.captured()

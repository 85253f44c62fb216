"""What Apprise and the libraries below it say, kept from the log: it may hold tokens, and why a service failed is
nowhere else."""

import contextlib
import logging
import threading
from collections.abc import Iterator

_OWN = ("apprise", "slixmpp")
"""Loggers that nobody but Apprise uses, also in threads of its own."""

_SHARED = ("gntp", "oauthlib", "paho", "pika", "requests", "requests_oauthlib", "smpplib", "urllib3")


class _Ear(logging.Handler):
    """Stands in for the handlers of the log while something is sent, and leaves the loggers as they were."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()
        self._changing = threading.Lock()
        self._listening = 0
        self._before: list[tuple[logging.Logger, bool, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(self._thread, "lines", None)
        if lines is not None:
            if record.levelno >= logging.WARNING:
                with contextlib.suppress(Exception):  # a line that cannot be put together is no failure of the send
                    lines.append(record.getMessage())
        elif record.name.partition(".")[0] not in _OWN:
            # Of somebody else, who uses the same library meanwhile: as if nothing stood here.
            logging.getLogger().callHandlers(record)

    @contextlib.contextmanager
    def said(self) -> Iterator[list[str]]:
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
            self._listening += 1
            if self._listening > 1:
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
            self._listening -= 1
            if self._listening:
                return
            for logger, propagate, level in self._before:
                logger.setLevel(level)
                logger.removeHandler(self)
                logger.propagate = propagate
            self._before.clear()


_EAR = _Ear()  # one for the process, as the loggers are


def said() -> contextlib.AbstractContextManager[list[str]]:
    """The warnings of the libraries in this thread meanwhile. Nothing of what they say in it gets into the log; when
    the last thread is through, all loggers are as before."""
    return _EAR.said()

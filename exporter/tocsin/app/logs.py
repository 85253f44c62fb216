"""Set up logging: text for a terminal, logfmt or JSON for machines."""

import logging
import sys
from pathlib import Path
from typing import TextIO

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from tocsin.config.sections import LogSettings
from tocsin.repeats import Repeats
from tocsin.terminal import has_colours

_MALFORMED = Repeats(structlog.get_logger(__name__), "malformed HTTP request")


def _is_defect(record: logging.LogRecord) -> bool:
    """Whether a line of the web server is about a defect. Anyone can send what is not HTTP: that is one line for many,
    without a traceback, and without the request, which may hold a secret."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    _MALFORMED.add(type(error).__name__, error=type(error).__name__)
    return False


SERVER = logging.getLogger("tocsin.web.server")
"""Where the web server logs. Not aiohttp's own logger, which a program that embeds Tocsin may use."""
SERVER.addFilter(_is_defect)


def use_logging() -> None:
    """Pass log lines to `logging`, which the embedding program configures. Changes nothing if that configures structlog
    itself."""
    if structlog.is_configured():
        return
    plain = structlog.dev.plain_traceback
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=plain),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def configure(settings: LogSettings, *, worker: int | None = None) -> None:
    """Send all log lines, also those of libraries, to the configured output. Raises OSError for a file that cannot be
    opened.

    `worker`: the number of this process among several with one output, which every line then has.
    """
    stream = _stream(settings.output)
    form = settings.format
    if form == "auto":
        form = "text" if stream.isatty() else "logfmt"
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.StackInfoRenderer(),
    ]
    if worker is not None:
        shared.append(lambda _logger, _level, line: {**line, "worker": worker})
    renderers: list[Processor]
    if form == "text":
        # Tracebacks without local variables, which hold passwords.
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(
            colors=has_colours(stream), timestamp_key="ts", pad_event_to=0, exception_formatter=plain
        )
        renderers = [console]
    elif form == "logfmt":
        logfmt = structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], bool_as_flag=False)
        renderers = [structlog.processors.format_exc_info, logfmt]
    else:
        traces = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        renderers = [traces, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    # Libraries log only warnings and errors.
    for noisy in ("aiohttp.access", "httpx", "httpcore", "asyncio", "psycopg"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # The source reports their errors; they add tracebacks, and at `debug` every frame, passwords included.
    for silent in ("aiormq", "aio_pika"):
        logging.getLogger(silent).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _stream(output: str) -> TextIO:
    if output == "stderr":
        return sys.stderr
    if output == "stdout":
        return sys.stdout
    return Path(output).open("a", encoding="utf-8", buffering=1)

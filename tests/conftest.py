"""What holds for all tests: a skip is a failure where everything has to be there; SIGINT reaches what they start; some
servers are shared by all processes of a run; the end of a run names the live server. A database of its own for each
test that asks for one."""

import logging
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from hypothesis import settings

from support import shared
from support.live_server import pytest_terminal_summary
from support.postgres import Database, shared_postgres
from support.skips import pytest_runtest_makereport

__all__ = ["pytest_configure", "pytest_runtest_makereport", "pytest_terminal_summary", "pytest_unconfigure"]

# A deadline for an example measures how busy the machine is.
settings.register_profile("tocsin", deadline=None)
settings.load_profile("tocsin")

# Otherwise each traceback in the log is drawn with the source and variables of its frames, which takes a second.
renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[structlog.processors.add_log_level, renderer])


def pytest_configure(config: pytest.Config) -> None:
    """Begin the run. A shell that runs the tests in the background has them ignore SIGINT, and whatever they start
    inherits that."""
    if not hasattr(config, "workerinput"):
        shared.begin()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run."""
    if not hasattr(config, "workerinput"):
        shared.end()


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Commands that run in this process set up logging, with which later tests would see no warnings."""
    root, configuration = logging.getLogger(), structlog.get_config()
    levels, handlers, disabled = _levels(), [*root.handlers], root.manager.disable
    yield
    logging.disable(disabled)
    for name in _levels():
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
    root.handlers[:] = handlers
    structlog.configure(**configuration)


def _levels() -> dict[str | None, int]:
    """Return the levels of all loggers, by name; the root has none."""
    named = logging.getLogger().manager.loggerDict.items()
    return {None: logging.getLogger().level} | {n: one.level for n, one in named if isinstance(one, logging.Logger)}


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    """An empty database on the server that the tests of this process share."""
    async with shared_postgres().database() as made:
        yield made

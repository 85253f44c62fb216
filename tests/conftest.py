"""What holds for all tests: a skip is a failure where everything has to be there; SIGINT reaches what they start."""

import signal

from hypothesis import settings

from support.skips import pytest_runtest_makereport

__all__ = ["pytest_configure", "pytest_runtest_makereport"]

# A deadline for an example measures how busy the machine is.
settings.register_profile("tocsin", deadline=None)
settings.load_profile("tocsin")


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them ignore SIGINT, and whatever they start inherits that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

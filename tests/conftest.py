"""What holds for all tests: a skip is a failure where everything has to be there."""

from support.skips import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

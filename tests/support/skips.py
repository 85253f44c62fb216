"""Whether a test may be skipped because something that it needs is not there."""

import os
from collections.abc import Generator
from typing import Any

import pytest

VARIABLE = "TOCSIN_TEST_NO_SKIPS"
"""Where it is set, as in CI, a test that would be skipped for a missing server fails, and names it."""

_ALLOWED = ("docker compose", "needs the right to mount", "only root can mount", "cannot mount")
"""Beginnings of reasons that hold nevertheless: a container engine and rights, which no package brings."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """One place for all skips, so that no test can forget about it. Live tests need your own servers."""
    report = yield
    expected = hasattr(report, "wasxfail") or item.get_closest_marker("live") is not None
    if report.skipped and not expected and os.environ.get(VARIABLE):
        reason = _reason(report.longrepr)
        if not reason.startswith(_ALLOWED):
            report.outcome = "failed"
            report.longrepr = f"{reason}\n{VARIABLE} is set: what this test needs has to be there."
    return report


def _reason(longrepr: Any) -> str:
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")

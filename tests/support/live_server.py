"""The line at the end of a test run that says which Materialize the live tests met."""

import os

import psycopg
import pytest

VARIABLE = "TOCSIN_TEST_MATERIALIZE_DSN"
"""Names a real Materialize for the live tests."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Also with -q, which leaves out the header of the run."""
    if dsn := os.environ.get(VARIABLE):
        terminalreporter.write_line(f"live tests: Materialize {_version(dsn)}")


def _version(dsn: str) -> str:
    """What `SELECT mz_version()` returns. The server also sends it at login, while a query could wait for a cluster."""
    try:
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            return connection.info.parameter_status("mz_version") or "of unknown version"
    except psycopg.Error as error:
        return f"cannot be asked: {str(error).splitlines()[0]}"

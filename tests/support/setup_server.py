"""Tests of `materialize/setup.py` on a catalog that computes nothing."""

from collections.abc import Callable, Iterable
from typing import Any, Self

import psycopg
import pytest

import setup
from setup import Setup, Waiting
from sql_plan import Statement, statements, variables
from support.definitions import Catalog
from support.materialize import ServerError

DEFAULTS = {name: default for name, (default, _) in variables().items()}


def shipped(**other: str) -> list[Statement]:
    """The shipped statements for a normal role, with other values for some variables."""
    return [each for each in statements(DEFAULTS | other) if each.action != "ALTER SYSTEM"]


def refused(sqlstate: str, message: str) -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)(message)


class Connection:
    """A connection to the server, as far as a setup uses it."""

    def __init__(self, server: Catalog) -> None:
        self._server = server
        self._rows: list[tuple[Any, ...]] = []
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def execute(self, query: str | bytes, _values: Iterable[object] = ()) -> "Connection":
        text = query.decode() if isinstance(query, bytes) else query
        if text.split()[0] != "SELECT":
            try:
                self._server.run(text)
            except ConnectionError as error:
                self.closed = True
                raise psycopg.OperationalError(str(error)) from None
            except ServerError as error:
                raise refused(error.code, error.message) from None
        elif "mz_objects" in text:
            self._rows = [(name, one.kind, one.comment) for name, one in self._server.objects.items()]
        else:
            self._rows = [(name,) for name in self._server.named] if "mz_roles" in text else []
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


class Clock:
    """A time module that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(setup, "time", made)
    return made


def set_up(server: Catalog, **other: str) -> dict[str, str]:
    """Run the setup once; returns the outcome of each object."""
    return _run(server, check=False, **other)


def would_set_up(server: Catalog, **other: str) -> dict[str, str]:
    """As `set_up` with --check."""
    return _run(server, check=True, **other)


def _run(server: Catalog, *, check: bool, **other: str) -> dict[str, str]:
    run = Setup(shipped(**other), "demo", lambda: Connection(server), Waiting(600), check=check)
    run.run()
    return run.outcomes

"""The catalog of a Materialize, for tests of `materialize/setup.py`. Nothing is computed."""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import psycopg
import pytest

import setup
from setup import Setup, Waiting
from sql_plan import Statement, statements, variables

DEFAULTS = {name: default for name, (default, _) in variables().items()}


def shipped(**other: str) -> list[Statement]:
    """The shipped statements for a normal role, with other values for some variables."""
    return [each for each in statements(DEFAULTS | other) if each.action != "ALTER SYSTEM"]


def refused(sqlstate: str, message: str) -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)(message)


@dataclass
class Created:
    """An object. `number` differs after it is recreated."""

    number: int
    kind: str
    reads: frozenset[str]
    comment: str | None = None
    rows: int = 0
    history: bool = False


class Catalog:
    """The server. Its answers are those of a live server.

    Attributes:
        before: called with each statement before it is executed; may raise.
        log: the executed statements.
    """

    def __init__(self, *, history: bool = True) -> None:
        self.history = history
        self.named: set[str] = set()
        self.objects: dict[str, Created] = {}
        self.granted: set[str] = set()
        self.log: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self._numbers = itertools.count()

    def numbers(self) -> dict[str, int]:
        return {name: one.number for name, one in self.objects.items()}

    def content(self) -> object:
        """Everything except the numbers."""
        objects = {
            name: (one.kind, one.reads, one.comment, one.rows, one.history) for name, one in self.objects.items()
        }
        return objects, self.named, self.granted

    def run(self, statement: str) -> None:
        self.before(statement)
        if found := re.match(r'CREATE (CLUSTER|ROLE) "?(\w+)', statement):
            if found[2] in self.named:
                raise refused("XX000", f"{found[1].lower()} '{found[2]}' already exists")
            self.named.add(found[2])
        elif found := re.match(r'CREATE ([A-Z ]+) IF NOT EXISTS "\w+"\.(\w+)(.*)', statement):
            self._create(found[1].lower().replace(" ", "-"), found[2], found[3])
        elif found := re.match(r'DROP [A-Z ]+ IF EXISTS "\w+"\.(\w+)', statement):
            self._drop(found[1])
        elif found := re.match(r"COMMENT ON [A-Z ]+ \"\w+\"\.(\w+) IS '(.*)'$", statement):
            self._existing(found[1]).comment = found[2].replace("''", "'")
        elif found := re.match(r'INSERT INTO "\w+"\.(\w+)', statement):
            self._existing(found[1]).rows = self._existing(found[1]).rows or 1
        elif found := re.match(r'ALTER MATERIALIZED VIEW "\w+"\.(\w+) SET \(RETAIN HISTORY', statement):
            if not self.history:
                raise refused("XX000", "RETAIN HISTORY is not available")
            self._existing(found[1]).history = True
        elif found := re.match(r'GRANT .* TO "(\w+)"', statement):
            if found[1] not in self.named:
                raise refused("XX000", f"unknown role '{found[1]}'")
            self.granted.add(statement)
        else:
            assert statement.startswith(("SET cluster", "CREATE SCHEMA IF NOT EXISTS")), statement
        self.log.append(statement)

    def _create(self, kind: str, name: str, definition: str) -> None:
        reads = frozenset(re.findall(r'"\w+"\.(\w+)', definition))
        for one in reads:
            self._existing(one)
        self.objects.setdefault(name, Created(next(self._numbers), kind, reads))

    def _drop(self, name: str) -> None:
        readers = [reader for reader, one in self.objects.items() if name in one.reads]
        if readers and name in self.objects:
            raise refused("XX000", f'cannot drop "{name}": still depended upon by view "{readers[0]}"')
        self.objects.pop(name, None)

    def _existing(self, name: str) -> Created:
        if name not in self.objects:
            raise refused("XX000", f"unknown catalog item '{name}'")
        return self.objects[name]


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

"""The statements of `materialize/setup.py` on a catalog that stores definitions and computes nothing.

Uses the standard library only, since it also runs in the container of the rehearsal.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.materialize.errors import ServerError, unknown_item
from support.materialize.protocol import Result, Row, column
from support.materialize.relation import DEFAULT_RETENTION
from support.materialize.server import ColumnSpec, MaterializeDouble

RETENTION = 3_600_000
"""Milliseconds of history under any `RETAIN HISTORY` of a double."""


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
    """Objects of one schema, by their names. Its errors are those of a live server.

    Attributes:
        before: called with each statement before it is executed; may raise.
        log: the executed statements.
    """

    def __init__(self, *, history: bool = True) -> None:
        self.history = history
        self.named: set[str] = set()
        """Clusters and roles."""
        self.objects: dict[str, Created] = {}
        self.granted: set[str] = set()
        self.log: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self._numbers = itertools.count()

    def run(self, statement: str) -> None:
        """Execute a statement. Raises ServerError."""
        self.before(statement)
        if found := re.match(r'CREATE (CLUSTER|ROLE) "?(\w+)', statement):
            if found[2] in self.named:
                raise ServerError("XX000", f"{found[1].lower()} '{found[2]}' already exists")
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
                raise ServerError("XX000", "RETAIN HISTORY is not available")
            self._existing(found[1]).history = True
        elif found := re.match(r'GRANT .* TO "(\w+)"', statement):
            if found[1] not in self.named:
                raise ServerError("XX000", f"unknown role '{found[1]}'")
            self.granted.add(statement)
        else:
            assert statement.startswith(("SET cluster", "CREATE SCHEMA", "ALTER SYSTEM")), statement
        self.log.append(statement)

    def create(self, name: str, made: Created) -> None:
        self.objects[name] = made

    def drop(self, name: str) -> None:
        del self.objects[name]

    def _create(self, kind: str, name: str, definition: str) -> None:
        reads = frozenset(re.findall(r'"\w+"\.(\w+)', definition))
        for one in reads:
            self._existing(one)
        if name not in self.objects:
            self.create(name, Created(next(self._numbers), kind, reads))

    def _drop(self, name: str) -> None:
        if readers := [reader for reader, one in self.objects.items() if name in one.reads]:
            raise ServerError("XX000", f'cannot drop "{name}": still depended upon by view "{readers[0]}"')
        if name in self.objects:
            self.drop(name)

    def _existing(self, name: str) -> Created:
        if name not in self.objects:
            raise unknown_item(name)
        return self.objects[name]


class Definitions(Catalog):
    """The catalog of a double, which gets the clusters, and the views of known columns.

    Args:
        shapes: view with its schema -> its columns. Only these can be read.
        journal: file for the executed statements, which a later double starts with.
    """

    def __init__(
        self, double: MaterializeDouble, shapes: Mapping[str, ColumnSpec], journal: Path | None = None
    ) -> None:
        super().__init__()
        self._double = double
        self._shapes = {name.rpartition(".")[2]: (name, shape) for name, shape in shapes.items()}
        self._journal = journal
        self.named |= {*double.clusters}
        if journal is not None and journal.exists():
            for line in journal.read_text(encoding="utf-8").splitlines():
                self._execute(json.loads(line))
        double.answer = self.answer

    def answer(self, statement: str) -> Result | None:
        """The answer to a statement of a setup; None for others."""
        text = " ".join(statement.split())
        named: Sequence[Row] = [(name,) for name in self.named]
        tables: dict[str, Sequence[Row]] = {
            "SELECT name FROM mz_catalog.mz_clusters": named,
            "SELECT name FROM mz_catalog.mz_roles": named,
            "SELECT o.name, o.type, c.comment": [(name, one.kind, one.comment) for name, one in self.objects.items()],
        }
        rows = tables.get(text.partition(" FROM mz_catalog.mz_objects")[0])
        if rows is not None:
            names = ("name", "type", "comment")[: 3 if " o.name," in text else 1]
            return Result(tag=f"SELECT {len(rows)}", columns=[column(name, "text") for name in names], rows=rows)
        if not text.startswith(("CREATE ", "DROP ", "COMMENT ", "INSERT ", "GRANT ", "ALTER ")):
            return None
        self._execute(text)
        if self._journal is not None:
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(text) + "\n")
        return Result(tag=text.split()[0])

    def _execute(self, text: str) -> None:
        self.run(text)
        if (found := re.match(r'CREATE CLUSTER "?(\w+)', text)) and found[1] not in self._double.clusters:
            self._double.create_cluster(found[1])
        elif found := re.match(r'ALTER MATERIALIZED VIEW "\w+"\.(\w+) SET \(RETAIN HISTORY', text):
            self._double.relation(self._shapes[found[1]][0]).retain = RETENTION

    def create(self, name: str, made: Created) -> None:
        super().create(name, made)
        if name in self._shapes:
            full, shape = self._shapes[name]
            self._double.create(full, shape, retain=DEFAULT_RETENTION)

    def drop(self, name: str) -> None:
        super().drop(name)
        if name in self._shapes:
            self._double.drop(self._double.relation(self._shapes[name][0]))

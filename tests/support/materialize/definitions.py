"""What statements define in a Materialize, as far as names go: clusters, roles, schemas, and objects with their
comments, their grants and who reads them. Nothing is computed. The answers are those of a live server.

`Definitions` alone is a model. `Defined` lays it over a double, so that views of known columns are there while they are
defined, and `materialize/setup.py` can be run against it.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.materialize.columns import column
from support.materialize.errors import ServerError, unknown_statement
from support.materialize.history import Row
from support.materialize.model import ColumnSpec, Result
from support.materialize.relation import DEFAULT_RETENTION, Relation
from support.materialize.server import MaterializeDouble

RETENTION = 3_600_000
"""Milliseconds that ``RETAIN HISTORY`` keeps, whatever it asks for."""


@dataclass
class Definition:
    """An object: which one it is, what it was made by and what it reads."""

    number: int
    kind: str
    statement: str
    reads: frozenset[str]
    comment: str | None = None
    rows: int = 0
    history: bool = False


class Definitions:
    """The catalog of a server. Objects go by their name alone: there is one schema.

    Attributes:
        history: whether ``RETAIN HISTORY`` is switched on.
    """

    def __init__(self, *, history: bool = True) -> None:
        self.history = history
        self.clusters: set[str] = set()
        self.roles: set[str] = set()
        self.schemas: set[str] = set()
        self.objects: dict[str, Definition] = {}
        self.granted: set[str] = set()
        self._numbers = itertools.count()

    def run(self, statement: str) -> None:
        """Carry out a statement that defines something.

        Raises:
            ServerError: the server would refuse it.
        """
        if "RETAIN HISTORY" in statement and not self.history:
            detail = "The requested feature (enable_logical_compaction_window) is in private preview."
            raise ServerError("XX000", "RETAIN HISTORY is not available", detail)
        if statement.startswith("CREATE"):
            self._make(statement)
        elif found := re.match(r'DROP [A-Z ]+ IF EXISTS "\w+"\.(\w+)', statement):
            self._drop(found[1])
        elif found := re.match(r'COMMENT ON [A-Z ]+ "\w+"\.(\w+) IS \'(.*)\'', statement):
            self._existing(found[1]).comment = found[2].replace("''", "'")
        elif found := re.match(r'INSERT INTO "\w+"\.(\w+)', statement):
            self._existing(found[1]).rows = self._existing(found[1]).rows or 1
        elif found := re.match(r'GRANT .* TO "(\w+)"', statement):
            if found[1] not in self.roles:
                raise ServerError("XX000", f"unknown role '{found[1]}'")
            self.granted.add(statement)
        elif found := re.match(r'ALTER MATERIALIZED VIEW "\w+"\.(\w+)', statement):
            self._existing(found[1]).history = True
        elif statement.startswith("ALTER SYSTEM SET enable_logical_compaction_window = true"):
            self.history = True
        elif not statement.startswith(("SET cluster", "COMMENT ON")):
            raise unknown_statement(statement)

    def _make(self, statement: str) -> None:
        if found := re.match(r'CREATE (CLUSTER|ROLE) "(\w+)"', statement):
            there = self.clusters if found[1] == "CLUSTER" else self.roles
            if found[2] in there:
                raise ServerError("XX000", f"{found[1].lower()} '{found[2]}' already exists")
            there.add(found[2])
        elif found := re.match(r'CREATE SCHEMA IF NOT EXISTS "(\w+)"', statement):
            self.schemas.add(found[1])
        elif found := re.match(r'CREATE (OR REPLACE )?([A-Z ]+?) (?:IF NOT EXISTS )?"\w+"\.(\w+) (.*)', statement):
            self._create(found[3], found[2], found[4], statement, replaced=bool(found[1]))
        else:
            raise unknown_statement(statement)

    def _create(self, name: str, kind: str, body: str, statement: str, *, replaced: bool) -> None:
        reads = frozenset(re.findall(r'"\w+"\.(\w+)', body))
        for one in reads:
            self._existing(one)
        if replaced:
            self._drop(name)
        if name not in self.objects:
            self.objects[name] = Definition(
                number=next(self._numbers),
                kind=kind.lower().replace(" ", "-"),
                statement=statement,
                reads=reads,
                history="RETAIN HISTORY" in statement,
            )

    def _drop(self, name: str) -> None:
        readers = [other for other, one in self.objects.items() if name in one.reads]
        if readers and name in self.objects:
            raise ServerError("XX000", f'cannot drop "{name}": still depended upon by view "{readers[0]}"')
        self.objects.pop(name, None)

    def _existing(self, name: str) -> Definition:
        if name not in self.objects:
            raise ServerError("XX000", f"unknown catalog item '{name}'")
        return self.objects[name]


class Defined:
    """Lets a double know the statements of `materialize/setup.py`.

    Args:
        double: its clusters and relations follow what is defined.
        shapes: name of a view with its schema -> its columns. Only these can be read.
        journal: where statements that were carried out are kept, one of JSON a line; those in it are carried out
            again first, as by a server that is started anew.
    """

    def __init__(
        self, double: MaterializeDouble, shapes: Mapping[str, ColumnSpec], journal: Path | None = None
    ) -> None:
        self.definitions = Definitions(history=False)
        self._journal = journal
        self._double = double
        self._shapes = shapes
        self._made: dict[str, tuple[int, Relation]] = {}
        if journal is not None and journal.exists():
            for line in journal.read_text(encoding="utf-8").splitlines():
                self.definitions.run(json.loads(line))
        self._follow()
        double.answer = self.answer

    def answer(self, statement: str) -> Result | None:
        """The answer to a statement; None where it defines nothing and asks for nothing that is defined.

        Raises:
            ServerError: the server would refuse it.
        """
        if (asked := self._asked(" ".join(statement.split()))) is not None:
            return asked
        if (found := re.match(r"(CREATE|DROP|COMMENT|INSERT|GRANT|ALTER)\b", statement)) is None:
            return None
        self.definitions.run(statement)
        if self._journal is not None:
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(statement) + "\n")
        self._follow()
        return Result(tag=found[1])

    def _asked(self, query: str) -> Result | None:
        known = self.definitions
        columns: Sequence[str]
        found: Sequence[Row]
        if query == "SHOW enable_logical_compaction_window":
            return Result(tag="SHOW", columns=(column(query[5:], "text"),), rows=[("on" if known.history else "off",)])
        if query == "SELECT name FROM mz_catalog.mz_clusters":
            columns, found = ("name",), [(name,) for name in known.clusters]
        elif query == "SELECT name FROM mz_catalog.mz_roles":
            columns, found = ("name",), [(name,) for name in known.roles]
        elif query.startswith("SELECT s.name FROM mz_catalog.mz_schemas "):
            columns, found = ("name",), [(name,) for name in known.schemas]
        elif query.startswith("SELECT o.name, o.type, c.comment FROM mz_catalog.mz_objects "):
            columns = ("name", "type", "comment")
            found = [(name, one.kind, one.comment) for name, one in known.objects.items()]
        else:
            return None
        return Result(tag=f"SELECT {len(found)}", columns=[column(name, "text") for name in columns], rows=found)

    def _follow(self) -> None:
        for cluster in self.definitions.clusters - self._double.clusters.keys():
            self._double.create_cluster(cluster)
        for name, columns in self._shapes.items():
            there = self.definitions.objects.get(name.partition(".")[2])
            number, relation = self._made.get(name, (None, None))
            if relation is not None and (there is None or there.number != number):
                self._double.drop(relation)
                del self._made[name]
            if there is not None:
                retain = RETENTION if there.history else DEFAULT_RETENTION
                if name not in self._made:
                    self._made[name] = (there.number, self._double.create(name, columns, retain=retain))
                self._made[name][1].retain = retain

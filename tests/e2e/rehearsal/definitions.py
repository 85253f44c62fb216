"""The statements of `materialize/setup.py` on the double: it stores definitions by name, and computes nothing."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.materialize.protocol import Result, Row, column
from support.materialize.relation import DEFAULT_RETENTION
from support.materialize.server import ColumnSpec, MaterializeDouble

RETENTION = 3_600_000
"""Milliseconds of history under any `RETAIN HISTORY`."""

_QUESTIONS = {
    "SELECT name FROM mz_catalog.mz_clusters": "clusters",
    "SELECT name FROM mz_catalog.mz_roles": "roles",
    "SELECT o.name, o.type, c.comment FROM mz_catalog.mz_objects ": "objects",
}


class Definitions:
    """The catalog of a double. Objects go by their name alone, as in one schema.

    Args:
        double: gets the clusters, and the views of known columns.
        shapes: view with its schema -> its columns. Only these can be read.
        journal: file for what was defined, which a later double starts with.
    """

    def __init__(
        self, double: MaterializeDouble, shapes: Mapping[str, ColumnSpec], journal: Path | None = None
    ) -> None:
        self._double = double
        self._shapes = {name.rpartition(".")[2]: (name, shape) for name, shape in shapes.items()}
        self._journal = journal
        self._roles: set[str] = set()
        self._objects: dict[str, tuple[str, str | None]] = {}
        """Name -> type and comment."""
        if journal is not None and journal.exists():
            for line in journal.read_text(encoding="utf-8").splitlines():
                self._define(json.loads(line))
        double.answer = self.answer

    def answer(self, statement: str) -> Result | None:
        """The answer to a statement that defines an object or queries definitions."""
        text = " ".join(statement.split())
        if asked := next((kind for question, kind in _QUESTIONS.items() if text.startswith(question)), None):
            known: dict[str, Sequence[Row]] = {
                "clusters": [(name,) for name in self._double.clusters],
                "roles": [(name,) for name in self._roles],
                "objects": [(name, kind, comment) for name, (kind, comment) in self._objects.items()],
            }
            rows = known[asked]
            names = ("name", "type", "comment")[: 3 if asked == "objects" else 1]
            return Result(tag=f"SELECT {len(rows)}", columns=[column(name, "text") for name in names], rows=rows)
        if (found := re.match(r"(CREATE|DROP|COMMENT|INSERT|GRANT|ALTER)\b", text)) is None:
            return None
        self._define(text)
        if self._journal is not None:
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(text) + "\n")
        return Result(tag=found[1])

    def _define(self, text: str) -> None:
        if (found := re.match(r'CREATE CLUSTER "?(\w+)', text)) and found[1] not in self._double.clusters:
            self._double.create_cluster(found[1])
        elif found := re.match(r'CREATE ROLE "?(\w+)', text):
            self._roles.add(found[1])
        elif found := re.match(r'CREATE ([A-Z ]+) IF NOT EXISTS "\w+"\.(\w+)', text):
            self._create(found[1].lower().replace(" ", "-"), found[2])
        elif (found := re.match(r'DROP [A-Z ]+ IF EXISTS "\w+"\.(\w+)', text)) and self._objects.pop(found[1], None):
            if found[1] in self._shapes:
                self._double.drop(self._double.relation(self._shapes[found[1]][0]))
        elif found := re.match(r"COMMENT ON [A-Z ]+ \"\w+\"\.(\w+) IS '(.*)'$", text):
            self._objects[found[1]] = (self._objects[found[1]][0], found[2].replace("''", "'"))
        elif found := re.match(r'ALTER MATERIALIZED VIEW "\w+"\.(\w+) SET \(RETAIN HISTORY', text):
            self._double.relation(self._shapes[found[1]][0]).retain = RETENTION

    def _create(self, kind: str, name: str) -> None:
        if name not in self._objects:
            self._objects[name] = (kind, None)
            if name in self._shapes:
                full, shape = self._shapes[name]
                self._double.create(full, shape, retain=DEFAULT_RETENTION)

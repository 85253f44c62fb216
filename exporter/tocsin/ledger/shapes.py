"""Lists of columns, each written once and known by its number."""

import json
import sqlite3

from tocsin.ledger.opening import one
from tocsin.model import Column, Columns

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Shapes:
    """The table `shapes`. What has been read is remembered: a number never changes its meaning."""

    def __init__(self) -> None:
        self._known: dict[int, Columns] = {}

    @staticmethod
    def number(db: sqlite3.Connection, columns: Columns) -> int:
        """The number of a list of columns. Not remembered: a rollback would take it back."""
        text = _encode([[column.name, column.oid, column.typmod] for column in columns])
        found = db.execute("SELECT id FROM shapes WHERE columns = ?", (text,)).fetchone()
        if found is None:
            number = db.execute("INSERT INTO shapes (columns) VALUES (?)", (text,)).lastrowid
            assert number is not None
            return number
        return int(found[0])

    def columns(self, db: sqlite3.Connection, number: int) -> Columns:
        """The columns behind a number."""
        if number not in self._known:
            text = one(db, "SELECT columns FROM shapes WHERE id = ?", number)
            self._known[number] = tuple(
                Column(name=name, oid=oid, typmod=typmod) for name, oid, typmod in json.loads(text)
            )
        return self._known[number]

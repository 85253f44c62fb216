"""The SQL that reads events and marks them. Pure.

An event is *pending* while `handled_at` is NULL. Taking events locks pending rows (`FOR UPDATE SKIP LOCKED`) in a
transaction that stays open until the ledger has the events; it ends with the rows marked or deleted. A process that
dies, or loses the server, loses its locks, and another process takes the events.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from tocsin.postgres import relation
from tocsin.sources.postgres_events.settings import HANDLED_AS, HANDLED_AT, Config


class Outcome(StrEnum):
    """The result for an event, as `handled_as` stores it."""

    TAKEN = "taken"
    UNMATCHED = "unmatched"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements for one table. `id_type`: the type of its id, as SQL writes it."""

    config: Config
    id_type: str = ""

    def events(self) -> sql.Composed:
        """Select all events."""
        return sql.SQL("SELECT * FROM {}").format(relation(self.config.table))

    def one_event(self, name: str) -> sql.Composed:
        """Select one event of this name."""
        return sql.SQL("{} WHERE {}::text = {} LIMIT 1").format(
            self.events(), sql.Identifier(self.config.name), sql.Literal(name)
        )

    def listen(self) -> sql.Composed:
        """Wake on NOTIFY."""
        return sql.SQL("LISTEN {}").format(sql.Identifier(self.config.channel))

    def take(self, without: Collection[str]) -> sql.Composed:
        """Lock pending rows and return them by id: the id, the key if there is one, then all columns.

        `without`: ids to skip. Rows whose id is NULL are not among them; see `count_nameless`. With a key, an event is
        skipped while another process holds an earlier one of the same key: one that is pending and comes before what
        this process locked, but is not among it.
        """
        return (_TAKE_IN_ORDER if self.config.key else _TAKE).format(**self._parts(without))

    def count_nameless(self) -> sql.Composed:
        """Count pending rows whose id is NULL. Nothing identifies such a row, so none is locked."""
        return sql.SQL("SELECT count(*) FROM {table} WHERE {at} IS NULL AND {id} IS NULL").format(**self._names)

    def any_pending(self, without: Collection[str]) -> sql.Composed:
        """Return a row if any event is pending, no matter who holds it."""
        return _ANY_PENDING.format(**self._parts(without))

    def all_that_run(self) -> list[sql.Composed]:
        """Return the statements that read and write the table; EXPLAIN needs the same rights as running them."""
        marks = [self._marked_by_id(outcome, []) for outcome in Outcome]
        return [self.take([]), self.count_nameless(), *marks, self._marked_nameless()]

    def settle(self, outcomes: Mapping[Outcome, Collection[str]], *, nameless: bool = False) -> sql.Composed:
        """Store the results of events by id, refuse all rows without an id if asked to, and end the transaction."""
        steps = [self._marked_by_id(outcome, ids) for outcome, ids in outcomes.items() if ids]
        if nameless:
            steps.append(self._marked_nameless())
        return sql.SQL("; ").join([*steps, sql.SQL("COMMIT")])

    def _marked_by_id(self, outcome: Outcome, ids: Collection[str]) -> sql.Composed:
        which = sql.SQL("{id} = ANY({ids})").format(ids=_array(ids, self.id_type), **self._names)
        if outcome is Outcome.TAKEN and self.config.after == "delete":
            return sql.SQL("DELETE FROM {table} WHERE {which}").format(which=which, **self._names)
        return self._marked(outcome, which)

    def _marked_nameless(self) -> sql.Composed:
        return self._marked(Outcome.REFUSED, sql.SQL("{at} IS NULL AND {id} IS NULL").format(**self._names))

    def _marked(self, outcome: Outcome, which: sql.Composable) -> sql.Composed:
        return sql.SQL("UPDATE {table} SET {at} = clock_timestamp(), {how} = {outcome} WHERE {which}").format(
            outcome=sql.Literal(outcome.value), which=which, **self._names
        )

    def _parts(self, without: Collection[str]) -> dict[str, sql.Composable]:
        skipped = sql.SQL("AND {id} <> ALL({ids})").format(ids=_array(without, self.id_type), **self._names)
        limit = sql.Literal(self.config.batch)
        return {**self._names, "limit": limit, "without": skipped if without else sql.SQL("")}

    @property
    def _names(self) -> dict[str, sql.Composable]:
        names = {"id": self.config.id, "at": HANDLED_AT, "how": HANDLED_AS, "key": self.config.key or self.config.id}
        return {"table": relation(self.config.table), **{part: sql.Identifier(name) for part, name in names.items()}}


def _array(texts: Collection[str], element: str = "text") -> sql.Composed:
    quoted = ",".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return sql.SQL("{}::{}[]").format(sql.Literal(f"{{{quoted}}}"), sql.SQL(element))


_TAKE = sql.SQL("""\
SELECT {id} AS "tocsin id", e.* FROM {table} AS e WHERE {at} IS NULL AND {id} IS NOT NULL {without}
ORDER BY {id} LIMIT {limit} FOR UPDATE SKIP LOCKED""")

_TAKE_IN_ORDER = sql.SQL("""\
WITH held AS MATERIALIZED (
  SELECT {id} AS "tocsin id", {key} AS "tocsin key", e.* FROM {table} AS e
  WHERE {at} IS NULL AND {id} IS NOT NULL {without} ORDER BY {id} LIMIT {limit} FOR UPDATE SKIP LOCKED
), others AS MATERIALIZED (
  SELECT {id} AS id, {key} AS key FROM {table} AS e
  WHERE {at} IS NULL AND {id} < (SELECT "tocsin id" FROM held ORDER BY 1 DESC LIMIT 1) {without}
  AND NOT EXISTS (SELECT FROM held WHERE "tocsin id" = e.{id})
)
SELECT held.* FROM held
WHERE NOT EXISTS (SELECT FROM others WHERE others.key = "tocsin key" AND others.id < "tocsin id")
ORDER BY 1""")

_ANY_PENDING = sql.SQL("SELECT 1 FROM {table} WHERE {at} IS NULL AND {id} IS NOT NULL {without} LIMIT 1")

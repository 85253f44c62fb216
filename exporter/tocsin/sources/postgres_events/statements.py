"""The SQL that takes events and settles them. Pure.

An event is *pending* while `handled_at` is NULL, in its own row or in its row of the companion table. Taking is locking
pending rows (`FOR UPDATE SKIP LOCKED`) in a transaction that stays open until the ledger has the events; it ends with
the rows marked or deleted. A process that dies, or loses the server, loses its locks, and another takes the events.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from tocsin.postgres import relation
from tocsin.sources.postgres_events.settings import HANDLED_AS, HANDLED_AT, Config


class Outcome(StrEnum):
    """What became of an event, as it stands in `handled_as`."""

    TAKEN = "taken"
    UNMATCHED = "unmatched"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements for one table. `id_type`: the type of its id, as SQL writes it."""

    config: Config
    id_type: str = ""

    def events(self) -> sql.Composed:
        """The table of events."""
        return sql.SQL("SELECT * FROM {}").format(relation(self.config.table))

    def one_event(self, name: str) -> sql.Composed:
        """One event of this name."""
        return sql.SQL("{} WHERE {}::text = {} LIMIT 1").format(
            self.events(), sql.Identifier(self.config.name), sql.Literal(name)
        )

    def notes(self) -> sql.Composed:
        """Where it is written down what became of them: raises an error in a database that is not set up."""
        return sql.SQL("SELECT {id}, {at}, {how} FROM {table}").format(table=self._notes, **self._names)

    def listen(self) -> sql.Composed:
        return sql.SQL("LISTEN {}").format(sql.Identifier(self.config.channel))

    def take(self, without: Collection[str]) -> sql.Composed:
        """Lock pending rows and give them, in the order of their ids: the id, the key if there is one, then all columns
        of the event (NULL where the companion has an id whose event is gone). `without`: ids to leave alone. Rows
        whose id is NULL have no place in that order; see `take_nameless`.

        With a key, an event stays where it is while somebody else holds an earlier one of the same key: one that is
        pending and comes before what this process locked, but is not among it.
        """
        return (_TAKE_IN_ORDER if self.config.key else _TAKE).format(**self._parts(without))

    def take_nameless(self, without: Collection[str]) -> sql.Composed:
        """Lock pending rows whose id is NULL, and give their places, by which they are settled in the same transaction.
        `without`: places to leave alone."""
        left_alone = sql.SQL("AND {place} <> ALL({places})").format(place=_PLACE, places=_array(without))
        return _TAKE_NAMELESS.format(
            place=_PLACE, left_alone=left_alone if without else sql.SQL(""), **self._parts(without=())
        )

    def any_pending(self, without: Collection[str]) -> sql.Composed:
        """A row if any event is pending, whoever holds it."""
        return _ANY_PENDING.format(**self._parts(without))

    def all_that_run(self) -> list[sql.Composed]:
        """The statements that read and write the tables, for the server to explain: that takes the same rights."""
        return [
            self.take([]),
            self.take_nameless([]),
            *(self._settled(outcome, []) for outcome in Outcome),
            self._nameless_settled([]),
        ]

    def insert_trigger(self) -> sql.Composed:
        """A row if the table of events has a trigger for new rows."""
        table = sql.Literal(relation(self.config.table).as_string(None))
        return sql.SQL(
            "SELECT 1 FROM pg_trigger WHERE tgrelid = {}::regclass AND NOT tgisinternal AND tgenabled <> 'D'"
            " AND tgtype & 4 <> 0 LIMIT 1"
        ).format(table)

    def settle(self, outcomes: Mapping[Outcome, Collection[str]], nameless: Collection[str] = ()) -> sql.Composed:
        """Write down what became of events, by their ids, refuse those without an id, by their places, and end the
        transaction."""
        steps = [self._settled(outcome, ids) for outcome, ids in outcomes.items() if ids]
        if nameless:
            steps.append(self._nameless_settled(nameless))
        return sql.SQL("; ").join([*steps, sql.SQL("COMMIT")])

    def _settled(self, outcome: Outcome, ids: Collection[str]) -> sql.Composed:
        which = sql.SQL("{id} = ANY({ids})").format(ids=_array(ids, self.id_type), **self._names)
        if outcome is Outcome.TAKEN and self.config.after == "delete":
            return sql.SQL("DELETE FROM {table} WHERE {which}").format(table=self._notes, which=which)
        return self._marked(outcome, which)

    def _nameless_settled(self, places: Collection[str]) -> sql.Composed:
        which = sql.SQL("{at} IS NULL AND {id} IS NULL AND {place} = ANY({places})").format(
            place=_PLACE, places=_array(places), **self._names
        )
        return self._marked(Outcome.REFUSED, which)

    def _marked(self, outcome: Outcome, which: sql.Composable) -> sql.Composed:
        return sql.SQL("UPDATE {table} SET {at} = clock_timestamp(), {how} = {outcome} WHERE {which}").format(
            table=self._notes, outcome=sql.Literal(outcome.value), which=which, **self._names
        )

    def _parts(self, without: Collection[str]) -> dict[str, sql.Composable]:
        left_alone = sql.SQL("AND n.{id} <> ALL({ids})").format(ids=_array(without, self.id_type), **self._names)
        parts: dict[str, sql.Composable] = {
            **self._names,
            "notes": self._notes,
            "limit": sql.Literal(self.config.batch),
            "without": left_alone if without else sql.SQL(""),
        }
        if self.config.companion is None:
            return {**parts, "e": sql.SQL("n"), "event": sql.SQL("")}
        event = _EVENT.format(events=relation(self.config.table), **self._names)
        return {**parts, "e": sql.SQL("e"), "event": event}

    @property
    def _notes(self) -> sql.Identifier:
        return relation(self.config.companion or self.config.table)

    @property
    def _names(self) -> dict[str, sql.Composable]:
        names = {"id": self.config.id, "at": HANDLED_AT, "how": HANDLED_AS, "key": self.config.key or self.config.id}
        return {part: sql.Identifier(name) for part, name in names.items()}


def _array(texts: Collection[str], element: str = "text") -> sql.Composed:
    quoted = ",".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return sql.SQL("{}::{}[]").format(sql.Literal(f"{{{quoted}}}"), sql.SQL(element))


_PLACE = sql.SQL("concat(tableoid, ctid)")
"""Where a row lies, which stays the same while it is locked: what there is to know a row without an id by."""

_EVENT = sql.SQL("LEFT JOIN LATERAL (SELECT * FROM {events} WHERE {id} = n.{id} OFFSET 0) AS e ON true")
"""Of a row of the companion. OFFSET keeps the planner from any other plan than looking up each event by its id."""

_TAKE = sql.SQL("""\
SELECT n.{id} AS "tocsin id", {e}.* FROM {notes} AS n {event} WHERE n.{at} IS NULL AND n.{id} IS NOT NULL {without}
ORDER BY n.{id} LIMIT {limit} FOR UPDATE OF n SKIP LOCKED""")

_TAKE_IN_ORDER = sql.SQL("""\
WITH held AS MATERIALIZED (
  SELECT n.{id} AS "tocsin id", {e}.{key} AS "tocsin key", {e}.* FROM {notes} AS n {event}
  WHERE n.{at} IS NULL AND n.{id} IS NOT NULL {without} ORDER BY n.{id} LIMIT {limit} FOR UPDATE OF n SKIP LOCKED
), others AS MATERIALIZED (
  SELECT n.{id} AS id, {e}.{key} AS key FROM {notes} AS n {event}
  WHERE n.{at} IS NULL AND n.{id} < (SELECT "tocsin id" FROM held ORDER BY 1 DESC LIMIT 1) {without}
  AND NOT EXISTS (SELECT FROM held WHERE "tocsin id" = n.{id})
)
SELECT held.* FROM held
WHERE NOT EXISTS (SELECT FROM others WHERE others.key = "tocsin key" AND others.id < "tocsin id")
ORDER BY 1""")

_TAKE_NAMELESS = sql.SQL("""\
SELECT {place} FROM {notes} WHERE {at} IS NULL AND {id} IS NULL {left_alone} LIMIT {limit} FOR UPDATE SKIP LOCKED""")

_ANY_PENDING = sql.SQL("SELECT 1 FROM {notes} AS n WHERE n.{at} IS NULL AND n.{id} IS NOT NULL {without} LIMIT 1")

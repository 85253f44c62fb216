"""Relations, clusters and roles: what names mean, and what a test may do to them."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from support.materialize import errors
from support.materialize.bulk import Bulk
from support.materialize.columns import Column
from support.materialize.errors import ServerError
from support.materialize.history import END_OF_TIME, History, Row
from support.materialize.releases import Release
from support.materialize.sql import Name

Clock = Callable[[], int]
"""Source time in milliseconds."""

Field = str | int | float | bool | None
"""A value that a test may give for a field. It travels as text: a bool as ``t`` or ``f``, ``None`` as NULL."""

DEFAULT_RETENTION = 1000
"""Milliseconds that stay readable behind the write frontier where nothing else was asked for."""

_COMPACTION_STEP = 1000
"""``since`` moves in whole seconds (seen on a live server)."""


def text_row(values: Iterable[Field]) -> Row:
    """A row as its text fields."""
    return tuple(_text(value) for value in values)


def _text(value: Field) -> str | None:
    if isinstance(value, bool):
        return "t" if value else "f"
    return value if value is None or isinstance(value, str) else str(value)


class Watched:
    """Something whose changes wake the statements that wait for them."""

    def __init__(self) -> None:
        self.watchers: set[asyncio.Event] = set()
        self.silent = False

    def wake(self) -> None:
        for watcher in self.watchers:
            watcher.set()


class Cluster(Watched):
    """A cluster. ``silent`` stands for replicas that are lost or not yet hydrated: no error, only no news."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__()
        self.name = name
        self.number = number
        self.replicas = 1
        self.gone: ServerError | None = None


class Relation(Watched):
    """A relation with its history, and what a test does to it.

    Attributes:
        id: object id as ``mz_objects`` shows it, ``u7`` for example.
        name: database, schema and name, which a rename changes.
        kind: as error messages call it.
        retain: milliseconds that stay readable behind the write frontier; ``None`` keeps all of it.
        gone: why running subscriptions end, once the relation was dropped.
        oversized: what a subscription has to send is larger than the server's ``max_result_size``.
        bulk: rows that are always there and never change, encoded once.
    """

    def __init__(
        self,
        *,
        object_id: str,
        oid: int,
        name: Name,
        kind: str,
        columns: tuple[Column, ...],
        retain: int | None,
        clock: Clock,
    ) -> None:
        super().__init__()
        self.id = object_id
        self.oid = oid
        self.name = name
        self.kind = kind
        self.columns = columns
        self.retain = retain
        self.gone: ServerError | None = None
        self.oversized = False
        self.frozen_at = END_OF_TIME
        self.bulk: Bulk | None = None
        self.history = History(since=clock())
        self.history.advance(self.history.since + 1)
        self.subscriptions: set[object] = set()
        self._clock = clock

    @property
    def full_name(self) -> str:
        return ".".join(self.name)

    @property
    def constant(self) -> bool:
        return self.history.upper > END_OF_TIME

    def insert(self, *rows: Sequence[Field]) -> int:
        """Add one copy of each row, all at one timestamp, and return it."""
        return self.change([(1, row) for row in rows])

    def delete(self, *rows: Sequence[Field]) -> int:
        """Remove one copy of each row, all at one timestamp, and return it."""
        return self.change([(-1, row) for row in rows])

    def update(self, old: Sequence[Field], new: Sequence[Field]) -> int:
        """Replace one copy of a row by another at one timestamp, and return it."""
        return self.change([(-1, old), (1, new)])

    def change(self, changes: Iterable[tuple[int, Sequence[Field]]], at: int | None = None) -> int:
        """Write changes at one timestamp and return it.

        Args:
            changes: pairs of diff and row.
            at: the timestamp; the clock's time by default, later where that time is closed already.

        Raises:
            ValueError: the timestamp is closed, a row has the wrong width, or more copies would go than there are.
        """
        pairs = [(diff, text_row(row)) for diff, row in changes]
        for _, row in pairs:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.full_name} has {len(self.columns)} columns, the row has {len(row)}: {row}")
        timestamp = self._next() if at is None else at
        self.history.append(timestamp, pairs)
        self.settle()
        return timestamp

    def fail(self, reason: str, at: int | None = None) -> int:
        """Put a row error into the relation, ``division by zero`` for example, and return its timestamp."""
        timestamp = self._next() if at is None else at
        self.history.fail(timestamp, reason)
        self.settle()
        return timestamp

    def heal(self, at: int | None = None) -> int:
        """Take the row error back and return the timestamp of that."""
        timestamp = self._next() if at is None else at
        self.history.heal(timestamp)
        self.settle()
        return timestamp

    def freeze(self, at: int | None = None) -> None:
        """Make the relation constant: nothing can change any more, and streams end after the snapshot.

        Args:
            at: where the snapshot is, as that of a materialized view in v26.39; by default at the end of time.
        """
        self.frozen_at = END_OF_TIME if at is None else at
        self.history.advance(END_OF_TIME + 1)
        self.wake()

    def tick(self) -> None:
        """Move the write frontier up to the clock."""
        self.history.advance(self._clock())
        self.settle()

    def settle(self) -> None:
        """Let compaction follow the write frontier, and wake the readers."""
        if self.retain is not None and not self.constant:
            step = max(1, min(_COMPACTION_STEP, self.retain))
            self.history.compact((self.history.upper - self.retain) // step * step)
        self.wake()

    def rows(self) -> list[Row]:
        """What the relation holds now, a row with several copies as often as there are copies. Without ``bulk``."""
        return list(self.history.contents().elements())

    def _next(self) -> int:
        return max(self._clock(), self.history.upper)


@dataclass(slots=True)
class Catalog:
    """All names. Relations belong to a database and a schema; a short name is looked for in schema ``public``."""

    clock: Clock
    release: Release
    relations: dict[Name, Relation] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    denied: set[tuple[str, str]] = field(default_factory=set)
    made: int = 0
    made_clusters: int = 0

    def full(self, name: Name, database: str = "materialize") -> Name:
        return (database, "public", *name)[-3:] if len(name) == 1 else ((database, *name) if len(name) == 2 else name)

    def create(self, name: Name, *, kind: str, columns: tuple[Column, ...], retain: int | None) -> Relation:
        full = self.full(name)
        if full in self.relations:
            raise ValueError(f"{'.'.join(full)} exists already")
        self.made += 1
        relation = Relation(
            object_id=f"u{self.made}",
            oid=20000 + self.made,
            name=full,
            kind=kind,
            columns=columns,
            retain=retain,
            clock=self.clock,
        )
        self.relations[full] = relation
        return relation

    def drop(self, relation: Relation) -> None:
        del self.relations[relation.name]
        relation.gone = self.release.relation_dropped(relation.full_name)
        relation.wake()

    def rename(self, relation: Relation, name: Name) -> None:
        full = self.full(name)
        if full in self.relations:
            raise ValueError(f"{'.'.join(full)} exists already")
        del self.relations[relation.name]
        self.relations[full] = relation
        relation.name = full

    def swap_schemas(self, one: str, other: str) -> None:
        """``ALTER SCHEMA one SWAP WITH other``: every relation changes its name at once."""
        swapped = {one: other, other: one}
        relations = list(self.relations.values())
        self.relations.clear()
        for relation in relations:
            database, schema, name = relation.name
            relation.name = (database, swapped.get(schema, schema), name)
            self.relations[relation.name] = relation

    def create_cluster(self, name: str) -> Cluster:
        self.made_clusters += 1
        self.clusters[name] = Cluster(name, self.made_clusters)
        return self.clusters[name]

    def swap_clusters(self, one: str, other: str) -> None:
        """``ALTER CLUSTER one SWAP WITH other``."""
        self.clusters[one], self.clusters[other] = self.clusters[other], self.clusters[one]
        self.clusters[one].name, self.clusters[other].name = one, other

    def apply_replacement(self, relation: Relation) -> None:
        """What ``APPLY REPLACEMENT`` does to the identity of a view: the replacement's id, the view's own oid."""
        self.made += 1
        renewed = f"u{self.made}"
        self.denied = {(role, renewed if one == relation.id else one) for role, one in self.denied}
        relation.id = renewed

    def of_id(self, object_id: str) -> Relation:
        """The relation that has an id.

        Raises:
            ServerError: there is none.
        """
        for relation in self.relations.values():
            if relation.id == object_id:
                return relation
        raise errors.invalid_id(object_id)

    def find(self, name: Name, database: str) -> Relation:
        """The relation behind a name.

        Raises:
            ServerError: there is none.
        """
        found = self.relations.get(self.full(name, database))
        if found is None:
            raise errors.unknown_item(".".join(name))
        return found

    def permit(self, role: str, relation: Relation) -> None:
        """Let a role read a relation.

        Raises:
            ServerError: 42501, the role may not.
        """
        if (role, relation.id) in self.denied:
            raise errors.permission_denied(role, relation.kind, relation.full_name)

    def cluster(self, name: str) -> Cluster:
        """The cluster a statement runs on.

        Raises:
            ServerError: there is no such cluster, or nothing in it that could do the work.
        """
        found = self.clusters.get(name)
        if found is None:
            raise errors.unknown_cluster(name)
        if not found.replicas:
            raise errors.no_replica(name)
        return found

    def watched(self) -> Iterator[Watched]:
        yield from self.relations.values()
        yield from self.clusters.values()

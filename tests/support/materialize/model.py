"""What a server holds: relations, clusters, roles and limits. A test changes it at will."""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from support.materialize import errors, messages
from support.materialize.columns import Column, columns
from support.materialize.errors import ServerError
from support.materialize.history import Row
from support.materialize.relation import DEFAULT_RETENTION, Field, Relation, text_row
from support.materialize.releases import RELEASES
from support.materialize.statements import Name, relation_name

ColumnSpec = Sequence[tuple[str, str]]
"""Pairs of name and type."""


@dataclass(slots=True, eq=False)
class Cluster:
    """A cluster.

    Attributes:
        silent: no error and no progress, as without a replica.
        gone: the error that ends its streams.
        notices: what running streams are sent between rows.
    """

    name: str
    number: int
    replicas: int = 1
    silent: bool = False
    gone: ServerError | None = None
    notices: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to a statement."""

    tag: str
    columns: Sequence[Column] = ()
    rows: Sequence[Row] = ()


class Model:
    """A server without its sockets.

    Attributes:
        now: source time in milliseconds.
        statements: the text of every statement that clients sent, in order.
        passwords: role -> password. If empty, clients need none.
        answer: answers further statements; None: as the double does itself. May raise ServerError.
        connection_limit: how many connections there may be; more are refused.
        cuts: for each of the next COPY streams, the number of bytes from its CopyOutResponse on after which the
            connection is closed.
        bytes_per_second: speed of every connection; None: no limit.
        deaf: new connections are accepted and never answered.
        ahead: milliseconds that a new subscription starts in the future, as on a server restored from elsewhere.
        moved: set when a stream began, moved on or ended.
    """

    def __init__(self, clock: Callable[[], int], release: str, clusters: Iterable[str]) -> None:
        self.now = clock
        self.release = RELEASES[release]
        self.relations: dict[Name, Relation] = {}
        self.clusters: dict[str, Cluster] = {}
        self.statements: list[str] = []
        self.passwords: dict[str, str] = {}
        self.answer: Callable[[str], Result | None] = lambda _: None
        self.connection_limit: int | None = None
        self.cuts: deque[int] = deque()
        self.bytes_per_second: float | None = None
        self.deaf = False
        self.ahead = 0
        self.moved = asyncio.Event()
        self.listeners: set[asyncio.Event] = set()
        self._numbers = itertools.count(1)
        for name in clusters:
            self.create_cluster(name)

    def wake(self) -> None:
        """Let every running stream see what has changed."""
        for listener in self.listeners:
            listener.set()

    # Relations.

    def create(
        self,
        name: str,
        kinds: ColumnSpec,
        *,
        retain: int | None = DEFAULT_RETENTION,
        rows: Iterable[Sequence[Field]] = (),
    ) -> Relation:
        """Create a relation.

        Args:
            name: as in SQL; the default schema is `public`.
            kinds: pairs of column name and type.
            retain: see `Relation`.
            rows: what it holds from the start.
        """
        full = _full(relation_name(name))
        assert full not in self.relations, f"{name} exists already"
        made = Relation(next(self._numbers), full, columns(kinds), retain, clock=self.now, wake=self.wake)
        self.relations[full] = made
        if first := list(rows):
            made.insert(*first)
        return made

    def relation(self, name: str) -> Relation:
        """The relation behind a name as in SQL. Raises KeyError."""
        return self.relations[_full(relation_name(name))]

    def find(self, name: Name, role: str = "") -> Relation:
        """The relation behind the name in a statement. Raises ServerError, also if the role may not read it."""
        found = self.relations.get(_full(name))
        if found is None:
            raise errors.unknown_item(".".join(name))
        if role in found.denied:
            raise errors.permission_denied(role, found.full_name)
        return found

    def drop(self, relation: Relation) -> None:
        """Drop a relation: its streams end with an error."""
        del self.relations[relation.name]
        relation.gone = self.release.dropped("relation", relation.full_name)
        self.wake()

    def replace(self, relation: Relation, kinds: ColumnSpec) -> Relation:
        """`CREATE OR REPLACE`: another, empty object under the same name."""
        self.drop(relation)
        return self.create(".".join(f'"{part}"' for part in relation.name), kinds, retain=relation.retain)

    def rename(self, relation: Relation, name: str) -> None:
        """Rename a relation. Its streams go on, silently."""
        del self.relations[relation.name]
        relation.name = _full(relation_name(name))
        self.relations[relation.name] = relation

    def swap_schemas(self, one: str, other: str) -> None:
        """`ALTER SCHEMA one SWAP WITH other`. The streams of their relations go on, silently."""
        swapped = {one: other, other: one}
        relations = list(self.relations.values())
        for relation in relations:
            database, schema, name = relation.name
            relation.name = (database, swapped.get(schema, schema), name)
        self.relations = {relation.name: relation for relation in relations}

    def apply_replacement(self, relation: Relation, rows: Iterable[Sequence[Field]]) -> None:
        """`APPLY REPLACEMENT` of a view with these rows: another id, the same oid. Streams get the difference."""
        relation.id = f"u{next(self._numbers)}"
        wanted, held = Counter(map(text_row, rows)), Counter(relation.rows())
        relation.change([(wanted[row] - held[row], row) for row in wanted | held])

    def compact(self, relation: Relation, since: int | None = None) -> int:
        """Forget the history before a time, by default before the present. Returns the oldest readable time."""
        relation.history.compact(relation.history.upper - 1 if since is None else since)
        return relation.history.since

    def tick(self) -> None:
        """Move every write frontier up to the clock now, without waiting for the interval."""
        for relation in self.relations.values():
            relation.tick()

    # Clusters.

    def create_cluster(self, name: str, *, replicas: int = 1) -> Cluster:
        self.clusters[name] = Cluster(name, next(self._numbers), replicas)
        return self.clusters[name]

    def cluster(self, name: str) -> Cluster:
        """The cluster that runs a statement. Raises ServerError if there is none, or it has no replica."""
        found = self.clusters.get(name)
        if found is None:
            raise errors.unknown_cluster(name)
        if not found.replicas:
            raise errors.no_replica(name)
        return found

    def scale(self, name: str, replicas: int) -> None:
        """Set the number of replicas. Without any, new statements are refused, and running streams fall silent.

        When replicas come back, running streams get a notice and then what they missed.
        """
        cluster = self.clusters[name]
        if replicas and not cluster.replicas:
            moment = datetime.fromtimestamp(self.now() / 1000, UTC)
            text = f'cluster replica {name}.r1 changed status to "online" at {moment:%Y-%m-%d %H:%M:%S.%f}+00'
            cluster.notices.append(messages.notice("00000", text))
        cluster.replicas, cluster.silent = replicas, replicas == 0
        self.wake()

    def drop_cluster(self, name: str) -> None:
        """Drop a cluster: the streams on it end with an error."""
        self.clusters.pop(name).gone = self.release.dropped("cluster", name)
        self.wake()

    def swap_clusters(self, one: str, other: str) -> None:
        """`ALTER CLUSTER one SWAP WITH other`. Streams go on where they are, silently."""
        self.clusters[one], self.clusters[other] = self.clusters[other], self.clusters[one]
        self.clusters[one].name, self.clusters[other].name = one, other

    # Faults of both.

    def silence(self, what: Relation | str = "quickstart") -> None:
        """Let a relation, or a cluster by its name, fall silent: no error and no progress.

        A new stream gets its first progress row all the same, and then nothing.
        """
        (what if isinstance(what, Relation) else self.clusters[what]).silent = True

    def resume(self, what: Relation | str = "quickstart") -> None:
        """End a silence. What was missed arrives with its true timestamps."""
        (what if isinstance(what, Relation) else self.clusters[what]).silent = False
        self.wake()


def _full(name: Name) -> Name:
    """A name with its database and schema."""
    return ("materialize", "public")[: 3 - len(name)] + name

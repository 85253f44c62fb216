"""One SUBSCRIBE as a state machine: what it told, and what it has to tell next. Pure: somebody else waits and sends."""

from collections.abc import Iterator
from dataclasses import dataclass

from support.materialize import errors, protocol
from support.materialize.bulk import Bulk
from support.materialize.catalog import Cluster, Relation
from support.materialize.columns import DIFF_COLUMN, PROGRESS_COLUMN, TIMESTAMP_COLUMN, Column
from support.materialize.errors import ServerError
from support.materialize.history import END_OF_TIME, Row, Update
from support.materialize.releases import Release
from support.materialize.sql import Subscribe

_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Progress:
    """No update before ``timestamp`` will follow."""

    timestamp: int


@dataclass(frozen=True, slots=True)
class BulkAt:
    """The unchanging rows of a relation, as part of its snapshot."""

    timestamp: int
    bulk: Bulk


Item = Progress | Update | BulkAt


def described(statement: Subscribe, relation: Relation) -> tuple[Column, ...]:
    """The columns of a SUBSCRIBE's result."""
    head = (TIMESTAMP_COLUMN, PROGRESS_COLUMN, DIFF_COLUMN) if statement.progress else (TIMESTAMP_COLUMN, DIFF_COLUMN)
    return (*head, *(relation.columns[at] for at in chosen(statement.columns, relation)))


def chosen(names: tuple[str, ...] | None, relation: Relation) -> tuple[int, ...]:
    """Positions of the named columns, all of them for ``None``.

    Raises:
        ServerError: the relation has no such column.
    """
    if names is None:
        return tuple(range(len(relation.columns)))
    places = {column.name: at for at, column in enumerate(relation.columns)}
    for name in names:
        if name not in places:
            raise errors.unknown_column(name)
    return tuple(places[name] for name in names)


def choose_as_of(
    statement: Subscribe, relation: Relation, cluster: Cluster, release: Release, *, now: int, ahead: int
) -> int:
    """The timestamp a subscription starts at.

    Without ``AS OF`` it is the last closed time. ``AS OF AT LEAST t`` is the oldest readable time from t
    on, never "now".

    Args:
        now: the source clock, for a relation whose frontier stands still.
        ahead: milliseconds that a fresh start lies in the future, to play a restored or different server.

    Raises:
        ServerError: ``AS OF`` names a time that is no longer readable.
    """
    history = relation.history
    if statement.as_of is not None:
        if statement.at_least:
            return max(history.since, statement.as_of)
        if statement.as_of < history.since:
            raise release.as_of_too_old(relation.id, history.since, statement.as_of)
        return statement.as_of
    if relation.constant:
        return relation.frozen_at
    if ahead:
        return now + ahead
    latest = max(history.since, history.upper - 1)
    return max(latest, now) if relation.silent or cluster.silent else latest


class Subscription:
    """A running SUBSCRIBE.

    Attributes:
        ended: everything was told and nothing can follow.
        told: rows sent so far, progress rows included.
        width: columns of the relation that are told.
    """

    def __init__(self, statement: Subscribe, relation: Relation, cluster: Cluster, as_of: int) -> None:
        self.statement = statement
        self.relation = relation
        self.cluster = cluster
        self.as_of = as_of
        self.ended = False
        self.told = 0
        self._columns = chosen(statement.columns, relation)
        self.width = len(self._columns)
        self._whole = self._columns == tuple(range(len(relation.columns)))
        self._announced = False
        self._read = False
        self._after = as_of
        self._progress = as_of
        self._failure: ServerError | None = None
        relation.history.hold(self, as_of)
        relation.subscriptions.add(self)

    def close(self) -> None:
        """Let go of the history that was kept for this subscription."""
        self.relation.history.release(self)
        self.relation.subscriptions.discard(self)

    def break_off(self, failure: ServerError) -> None:
        """End with an error, without what was not yet sent."""
        self._failure = failure
        self.relation.wake()

    @property
    def started(self) -> bool:
        """Was the first row sent? The snapshot may still be to come."""
        return self._announced

    @property
    def caught_up(self) -> bool:
        """Was everything told that is known?"""
        return self.ended or (self._read and self._progress >= self.relation.history.upper)

    def poll(self) -> list[Item]:
        """What is to be sent now; empty where there is nothing to tell yet.

        Raises:
            ServerError: the stream ends with it. What came before was returned by earlier calls.
        """
        if self._failure is not None:
            raise self._failure
        items: list[Item] = []
        if not self._announced:
            self._announced = True
            items.append(Progress(self.as_of))
        if not (self.relation.silent or self.cluster.silent):
            items += self._news()
        if self._failure is None:
            self._failure = self.cluster.gone or self.relation.gone
        if self._failure is not None and not items:
            raise self._failure
        if not self.statement.progress:
            items = [item for item in items if not isinstance(item, Progress)]
        self.told += sum(item.bulk.count if isinstance(item, BulkAt) else 1 for item in items)
        return items

    def _news(self) -> list[Item]:
        history = self.relation.history
        end = self.statement.up_to
        if end is not None and self.as_of >= end:
            self.ended = True
            return []
        if history.upper <= self.as_of:
            return []
        if self.relation.oversized:
            self._failure = errors.result_too_large()
            return []
        items: list[Item] = []
        if not self._read:
            message = history.error_at(self.as_of) if self.statement.snapshot else None
            if message is not None:
                self._failure = errors.evaluation(message)
                return []
            self._read = True
            if self.statement.snapshot:
                items += self._snapshot()
        upper = history.upper if end is None else min(history.upper, end)
        error = history.first_error(self._after, upper)
        if error is not None:
            upper = min(upper, error.lower)
            self._failure = errors.evaluation(error.message)
        if upper > self._after:
            items += self._project(history.updates(self._after, upper))
            self._after = max(self._after, upper - 1)
            history.hold(self, self._after)
        if error is None and upper in (end, END_OF_TIME + 1):
            self.ended = True
        elif upper > self._progress:
            self._progress = upper
            items.append(Progress(upper))
        return items

    def _snapshot(self) -> list[Item]:
        relation = self.relation
        rows = relation.history.snapshot(self.as_of).items()
        items: list[Item] = []
        if relation.bulk is not None:
            if not (self.statement.progress and self._whole):
                raise errors.unsupported("bulk rows without progress or with some of the columns only")
            items.append(BulkAt(self.as_of, relation.bulk))
        items += self._project([Update(self.as_of, count, row) for row, count in rows])
        return items

    def _project(self, updates: list[Update]) -> list[Update]:
        """Keep the chosen columns, and add up the rows that look the same now."""
        if self._whole:
            return updates
        diffs: dict[tuple[int, Row], int] = {}
        for update in updates:
            key = (update.timestamp, tuple(update.row[at] for at in self._columns))
            diffs[key] = diffs.get(key, 0) + update.diff
        return [Update(timestamp, diff, row) for (timestamp, row), diff in diffs.items() if diff]


def copy_messages(items: list[Item], width: int, *, progress: bool) -> Iterator[bytes]:
    """Items as CopyData messages, some thousands at a time.

    Args:
        width: columns of the relation.
        progress: is there a column ``mz_progressed``?
    """
    nulls = b"\t".join([b"\\N"] * (width + 1)) + b"\n"
    flag = b"f\t" if progress else b""
    pending: list[bytes] = []
    for item in items:
        if isinstance(item, BulkAt):
            yield b"".join(pending)
            pending.clear()
            yield from item.bulk.at(item.timestamp)
        elif isinstance(item, Progress):
            pending.append(protocol.copy_data(b"%d\tt\t%b" % (item.timestamp, nulls)))
        else:
            line = protocol.copy_fields(item.row)
            separator = b"\t" if item.row else b""
            pending.append(protocol.copy_data(b"%d\t%b%d%b%b\n" % (item.timestamp, flag, item.diff, separator, line)))
        if len(pending) >= _CHUNK:
            yield b"".join(pending)
            pending.clear()
    if pending:
        yield b"".join(pending)


def row_fields(items: list[Item], width: int, *, progress: bool) -> Iterator[tuple[str | None, ...]]:
    """Items as the fields of rows, for a client that does not use COPY."""
    for item in items:
        if isinstance(item, Progress):
            yield (str(item.timestamp), "t", None, *([None] * width))
        elif isinstance(item, Update):
            flag = ("f",) if progress else ()
            yield (str(item.timestamp), *flag, str(item.diff), *item.row)
        else:
            raise errors.unsupported("bulk rows outside COPY")

"""One SUBSCRIBE as a state machine: the messages to send next. Pure: others wait and send."""

from collections import Counter

from support.materialize import errors, messages
from support.materialize.errors import ServerError
from support.materialize.history import Row, Update
from support.materialize.model import Cluster, Model
from support.materialize.relation import Relation
from support.materialize.statements import Statement


def choose_as_of(statement: Statement, relation: Relation, cluster: Cluster, model: Model) -> int:
    """The timestamp at which a subscription starts.

    Without `AS OF` it is the last closed time. `AS OF AT LEAST t` is the oldest readable time from t on, never "now".

    Raises ServerError if `AS OF` names a time that is no longer readable.
    """
    history = relation.history
    if statement.as_of is not None:
        if not statement.at_least and statement.as_of < history.since:
            raise model.release.as_of_too_old(relation.id, history.since, statement.as_of)
        return max(history.since, statement.as_of)
    if relation.constant:
        return relation.as_of
    if model.ahead:
        return model.now() + model.ahead
    latest = max(history.since, history.upper - 1)
    return max(latest, model.now()) if relation.silent or cluster.silent else latest


class Subscription:
    """A running SUBSCRIBE with progress. `places`: positions of the columns that it selects.

    Attributes:
        sent: rows sent so far, progress rows included.
        ended: everything was sent, and nothing can follow.
        failure: the error that ends the stream as soon as nothing is left to send before it.
    """

    def __init__(
        self, relation: Relation, cluster: Cluster, places: tuple[int, ...], as_of: int, *, snapshot: bool
    ) -> None:
        self.relation = relation
        self.cluster = cluster
        self.sent = 0
        self.ended = False
        self.failure: ServerError | None = None
        self._places = places
        self._as_of = as_of
        self._snapshot_due = snapshot
        self._applied = as_of  # updates up to this time were sent, once there was a first progress row
        self._progress: int | None = None  # the last progress row
        self._notices = len(cluster.notices)  # of the cluster's, those before this one are not for this stream

    @property
    def started(self) -> bool:
        """Whether the first progress row was sent. The snapshot may be still to come."""
        return self._progress is not None

    @property
    def caught_up(self) -> bool:
        """Whether everything was sent that is known."""
        upper = self.relation.history.upper
        return self.ended or (not self._snapshot_due and self._progress is not None and self._progress >= upper)

    def poll(self) -> bytes:
        """The messages to send now; empty if there is nothing to say yet.

        Raises ServerError, with which the stream ends. What came before it was returned by earlier calls.
        """
        found: list[bytes] = []
        if self._progress is None:
            found.append(self._report_progress(self._as_of))
        found += self.cluster.notices[self._notices :]
        self._notices = len(self.cluster.notices)
        if self.failure is None and not (self.relation.silent or self.cluster.silent):
            found += self._news()
        self.failure = self.failure or self.cluster.gone or self.relation.gone
        if self.failure is not None and not found:
            raise self.failure
        return b"".join(found)

    def _news(self) -> list[bytes]:
        history, upper = self.relation.history, self.relation.history.upper
        if upper <= self._as_of:
            return []
        if self.relation.oversized:
            self.failure = errors.result_too_large()
            return []
        found: list[bytes] = []
        if self._snapshot_due:
            if (failed := history.error_at(self._as_of)) is not None:
                self.failure = errors.row_error(failed.message)
                return []
            self._snapshot_due = False
            found += self.relation.bulk_at(self._as_of)
            found += self._changes([Update(self._as_of, n, row) for row, n in history.snapshot(self._as_of).items()])
        if (error := history.first_error(self._applied, upper)) is not None:
            upper = min(upper, error.lower)
            self.failure = errors.row_error(error.message)
        if upper > self._applied:
            found += self._changes(history.updates(self._applied, upper))
            self._applied = max(self._applied, upper - 1)
        if self.relation.constant:
            self.ended = True
        elif self._progress is None or upper > self._progress:
            found.append(self._report_progress(upper))
        return found

    def _report_progress(self, timestamp: int) -> bytes:
        self._progress = timestamp
        self.sent += 1
        return messages.copy_data(str(timestamp), "t", *([None] * (len(self._places) + 1)))

    def _changes(self, updates: list[Update]) -> list[bytes]:
        """Updates with the selected columns only; rows that look alike now are added up."""
        if len(self._places) != len(self.relation.columns):
            diffs: Counter[tuple[int, Row]] = Counter()
            for one in updates:
                diffs[one.timestamp, tuple(one.row[at] for at in self._places)] += one.diff
            updates = [Update(at, diff, row) for (at, row), diff in diffs.items() if diff]
        self.sent += len(updates)
        return [messages.copy_update(one.timestamp, one.diff, one.row) for one in updates]

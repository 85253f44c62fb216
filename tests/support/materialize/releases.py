"""What differs between releases of the server in its messages. Texts and codes are those recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from support.materialize.errors import ServerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of Materialize.

    Attributes:
        version: as the greeting names it.
        build: the commit in ``mz_version``.
        place: the lines of the greeting that say which server it is.
        relation_dropped: how a stream ends when its relation (by name) is dropped.
        cluster_dropped: how a stream ends when its cluster (by name) is dropped.
        as_of_too_old: the refusal of an ``AS OF``: the relation's id, its oldest readable time, the time asked for.
    """

    version: str
    build: str
    place: tuple[str, ...]
    relation_dropped: Callable[[str], ServerError]
    cluster_dropped: Callable[[str], ServerError]
    as_of_too_old: Callable[[str, int, int], ServerError]

    @property
    def mz_version(self) -> str:
        """The value of ``mz_version``."""
        return f"{self.version} ({self.build})"


def _terminated(kind: str) -> Callable[[str], ServerError]:
    def error(name: str) -> ServerError:
        return ServerError("XX000", f'subscribe has been terminated because underlying {kind} "{name}" was dropped')

    return error


def _was_dropped(kind: str) -> Callable[[str], ServerError]:
    def error(name: str) -> ServerError:
        return ServerError("42704", f"{kind} '{name}' was dropped")

    return error


def _not_valid(_: str, since: int, as_of: int) -> ServerError:
    return ServerError("XX000", f"Timestamp ({since}) is not valid for all inputs: []")


def _no_timestamp(object_id: str, since: int, as_of: int) -> ServerError:
    return ServerError(
        "22000",
        "could not find a valid timestamp for the query",
        detail=f"Constraints:\nlower:\n  (Storage inputs: [{object_id}]): [{_moment(since)}]\n"
        f"upper:\n  (Query's AS OF): [{_moment(as_of)}]\n",
    )


def _moment(timestamp: int) -> str:
    return f"{timestamp} ({datetime.fromtimestamp(timestamp / 1000, UTC):%Y-%m-%d %H:%M:%S}.{timestamp % 1000:03})"


RELEASES = {
    "v26.8": Release(
        version="v26.8.0-dev.0",
        build="398408c42",
        place=("Org ID: 541266c2-5165-4015-a2d3-43e201c51ae4", "Region: docker/container"),
        relation_dropped=_terminated("relation"),
        cluster_dropped=_terminated("cluster"),
        as_of_too_old=_not_valid,
    ),
    "v26.39": Release(
        version="v26.39.0-dev.0",
        build="30e4b1d24",
        place=("Environment ID: local-az1-00000000-0000-0000-0000-000000000000-0", "Region: local/az1"),
        relation_dropped=_was_dropped("relation"),
        cluster_dropped=_was_dropped("cluster"),
        as_of_too_old=_no_timestamp,
    ),
}
"""The releases that were recorded, by name."""

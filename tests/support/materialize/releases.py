"""Releases of the server, and the messages in which they differ. Texts and codes are those in the recordings."""

from dataclasses import dataclass
from datetime import UTC, datetime

from support.materialize.errors import ServerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Release v26.8.

    Attributes:
        version: as the greeting names it.
        build: the commit in `mz_version`.
        place: the lines of the greeting that say which server it is.
    """

    version: str
    build: str
    place: tuple[str, ...]

    def dropped(self, kind: str, name: str) -> ServerError:
        """The end of a stream whose `kind` (relation or cluster) was dropped."""
        return ServerError("XX000", f'subscribe has been terminated because underlying {kind} "{name}" was dropped')

    def as_of_too_old(self, object_id: str, since: int, as_of: int) -> ServerError:
        """The answer to an `AS OF` before `since`, the oldest readable time of the object."""
        return ServerError("XX000", f"Timestamp ({since}) is not valid for all inputs: []")


class NewerRelease(Release):
    """Release v26.39."""

    def dropped(self, kind: str, name: str) -> ServerError:
        return ServerError("42704", f"{kind} '{name}' was dropped")

    def as_of_too_old(self, object_id: str, since: int, as_of: int) -> ServerError:
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
    ),
    "v26.39": NewerRelease(
        version="v26.39.0-dev.0",
        build="30e4b1d24",
        place=("Environment ID: local-az1-00000000-0000-0000-0000-000000000000-0", "Region: local/az1"),
    ),
}
"""The releases that were recorded, by name."""

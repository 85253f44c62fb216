"""Errors of the server. Codes and texts are those in the recordings, unless a docstring says otherwise."""

from dataclasses import dataclass

RELEASES = ("v26.8", "v26.39")
"""The releases that were recorded, the newest last."""
NEWEST = RELEASES[-1]


@dataclass(slots=True, eq=False)
class ServerError(Exception):
    """An ErrorResponse. `code`: SQLSTATE. `severity`: `FATAL` if the connection ends with it."""

    code: str
    message: str
    detail: str | None = None
    hint: str | None = None
    severity: str = "ERROR"


def dropped(release: str, kind: str, name: str) -> ServerError:
    """The end of a stream whose `kind` (relation or cluster) was dropped."""
    if release == "v26.8":
        return ServerError("XX000", f'subscribe has been terminated because underlying {kind} "{name}" was dropped')
    return ServerError("42704", f"{kind} '{name}' was dropped")


def unknown_item(name: str) -> ServerError:
    return ServerError("XX000", f"unknown catalog item '{name}'")


def no_subscription(call: str) -> ServerError:
    return ServerError("XX000", f"internal error: internal error in optimizer: cannot materialize call to {call}")


def bounds_are_crossed(as_of: int) -> ServerError:
    text = f"subscription lower bound (`AS OF`) is greater than its upper bound (`UP TO`): {as_of} > 1"
    return ServerError("22000", text)


def unknown_cluster(name: str) -> ServerError:
    return ServerError("XX000", f"unknown cluster '{name}'")


def invalid_id(object_id: str) -> ServerError:
    """The text is the one in the server's source."""
    return ServerError("XX000", f"invalid id {object_id}")


def no_replica(cluster: str) -> ServerError:
    hint = "Use ALTER CLUSTER to adjust the replication factor of the cluster. "
    hint += "Example:`ALTER CLUSTER <cluster-name> SET (REPLICATION FACTOR 1)`"
    return ServerError("0A000", f'CLUSTER "{cluster}" has no replicas available to service request', hint=hint)


def permission_denied(role: str, name: str) -> ServerError:
    detail = f"The '{role}' role needs SELECT privileges on MATERIALIZED VIEW \"{name}\""
    return ServerError("42501", f'permission denied for MATERIALIZED VIEW "{name}"', detail)


def row_error(reason: str) -> ServerError:
    """A reason that names its kind (`Decode error: ...`) keeps it."""
    return ServerError("XX000", reason if " error: " in reason else f"Evaluation error: {reason}")


def fell_behind() -> ServerError:
    text = "SUBSCRIBE fell behind: the client did not read results fast enough, so its backlog reached 2.0 MiB, "
    return ServerError("XX000", text + "exceeding the 976.6 KiB budget")


def result_too_large() -> ServerError:
    """The text is that of a live server, which was not recorded."""
    return ServerError("XX000", "result exceeds max size of 1.0 MiB")


def too_many_connections(limit: int, current: int) -> ServerError:
    numbers = f"(desired: {current + 1}, limit: {limit}, current: {current})"
    hint = "Drop an existing connection or contact support to request a limit increase."
    text = f"creating connection would violate max_connections limit {numbers}"
    return ServerError("53000", text, hint=hint, severity="FATAL")


def invalid_password() -> ServerError:
    return ServerError("28P01", "invalid password", severity="FATAL")


def unknown_statement(text: str) -> ServerError:
    """The double's own. It quotes the statement, for the author of the test."""
    return ServerError("42601", f"the double of Materialize does not know this statement: {text}")

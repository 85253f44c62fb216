"""Errors of the server. Codes and texts are those in the recordings, unless a docstring says otherwise."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class ServerError(Exception):
    """An ErrorResponse. `code`: SQLSTATE. `severity`: `FATAL` if the connection ends with it."""

    code: str
    message: str
    detail: str | None = None
    hint: str | None = None
    severity: str = "ERROR"


def unknown_item(name: str) -> ServerError:
    return ServerError("XX000", f"unknown catalog item '{name}'")


def unknown_cluster(name: str) -> ServerError:
    return ServerError("XX000", f"unknown cluster '{name}'")


def unknown_column(name: str) -> ServerError:
    return ServerError("42703", f'column "{name}" does not exist')


def invalid_id(object_id: str) -> ServerError:
    """The text is the one in the server's source."""
    return ServerError("XX000", f"invalid id {object_id}")


def no_replica(cluster: str) -> ServerError:
    return ServerError(
        "0A000",
        f'CLUSTER "{cluster}" has no replicas available to service request',
        hint="Use ALTER CLUSTER to adjust the replication factor of the cluster. "
        "Example:`ALTER CLUSTER <cluster-name> SET (REPLICATION FACTOR 1)`",
    )


def permission_denied(role: str, name: str) -> ServerError:
    return ServerError(
        "42501",
        f'permission denied for MATERIALIZED VIEW "{name}"',
        detail=f"The '{role}' role needs SELECT privileges on MATERIALIZED VIEW \"{name}\"",
    )


def row_error(reason: str) -> ServerError:
    """A reason that names its kind (`Decode error: ...`) keeps it."""
    return ServerError("XX000", reason if " error: " in reason else f"Evaluation error: {reason}")


def fell_behind() -> ServerError:
    return ServerError(
        "XX000",
        "SUBSCRIBE fell behind: the client did not read results fast enough, so its backlog reached 2.0 MiB, exceeding "
        "the 976.6 KiB budget",
    )


def result_too_large() -> ServerError:
    return ServerError("XX000", "result exceeds max size of 1.0 MiB")


def too_many_connections(limit: int, current: int) -> ServerError:
    return ServerError(
        "53000",
        "creating connection would violate max_connections limit "
        f"(desired: {current + 1}, limit: {limit}, current: {current})",
        hint="Drop an existing connection or contact support to request a limit increase.",
        severity="FATAL",
    )


def invalid_password() -> ServerError:
    return ServerError("28P01", "invalid password", severity="FATAL")


def cancelled() -> ServerError:
    return ServerError("57014", "canceling statement due to user request")


def unknown_statement(text: str) -> ServerError:
    """The double's own. It quotes the statement, for the author of the test."""
    return ServerError("42601", f"the double of Materialize does not know this statement: {text}")

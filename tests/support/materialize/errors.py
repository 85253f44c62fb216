"""What the server refuses, in its own words. Texts and codes are those recorded unless a line says otherwise."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class ServerError(Exception):
    """An ErrorResponse.

    Attributes:
        code: SQLSTATE.
        severity: ``ERROR``, or ``FATAL`` where the connection ends with it.
    """

    code: str
    message: str
    detail: str | None = None
    hint: str | None = None
    severity: str = "ERROR"


def unknown_item(name: str) -> ServerError:
    return ServerError("XX000", f"unknown catalog item '{name}'")


def unknown_cluster(name: str) -> ServerError:
    return ServerError("XX000", f"unknown cluster '{name}'")


def no_replica(cluster: str) -> ServerError:
    return ServerError(
        "0A000",
        f'CLUSTER "{cluster}" has no replicas available to service request',
        hint="Use ALTER CLUSTER to adjust the replication factor of the cluster. "
        "Example:`ALTER CLUSTER <cluster-name> SET (REPLICATION FACTOR 1)`",
    )


def permission_denied(role: str, kind: str, name: str) -> ServerError:
    return ServerError(
        "42501",
        f'permission denied for {kind} "{name}"',
        detail=f"The '{role}' role needs SELECT privileges on {kind} \"{name}\"",
    )


def evaluation(reason: str) -> ServerError:
    """A row error. A reason with its own kind in front (``Decode error: ...``) keeps it."""
    text = reason if " error: " in reason else f"Evaluation error: {reason}"
    return ServerError("XX000", text)


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


def invalid_id(object_id: str) -> ServerError:
    """Not recorded: the text is the one in the server's source."""
    return ServerError("XX000", f"invalid id {object_id}")


def unqualified(name: str) -> ServerError:
    """Not recorded: the text is the one in the server's source."""
    return ServerError("XX000", f"unresolved name {name} not fully qualified")


def cancelled() -> ServerError:
    return ServerError("57014", "canceling statement due to user request")


def invalid_password() -> ServerError:
    """Not recorded: the text is the one in the server's source."""
    return ServerError("28P01", "invalid password", severity="FATAL")


def unsupported(sql: str) -> ServerError:
    """The double's own: a statement it does not model. It quotes the statement so that the test's author sees it."""
    return ServerError("42601", f"the double of Materialize does not know this statement: {sql}")


def missing_object(name: str) -> ServerError:
    """Not recorded: a name that ``regclass`` does not find."""
    return ServerError("XX000", f'object "{name}" does not exist')


def unknown_column(name: str) -> ServerError:
    return ServerError("42703", f'column "{name}" does not exist')


def unknown_variable(name: str) -> ServerError:
    return ServerError("42704", f'unrecognized configuration parameter "{name}"')


def silent_select() -> ServerError:
    """The double's own: a SELECT on a silent relation would never end on the server."""
    return ServerError("57014", "the double of Materialize has no answer for a SELECT on a silent relation")


def aborted() -> ServerError:
    return ServerError("25P02", "current transaction is aborted, commands ignored until end of transaction block")


def not_the_only_read() -> ServerError:
    return ServerError("25000", "SUBSCRIBE in transactions must be the only read statement")


def outside_transaction(command: str) -> ServerError:
    return ServerError("25P01", f"{command} can only be used in transaction blocks")


def unknown_cursor(name: str) -> ServerError:
    return ServerError("34000", f'cursor "{name}" does not exist')


def unknown_prepared(name: str) -> ServerError:
    return ServerError("26000", f'prepared statement "{name}" does not exist')


def unknown_portal(name: str) -> ServerError:
    return ServerError("34000", f'portal "{name}" does not exist')


def shape_changed() -> ServerError:
    return ServerError("0A000", "cached plan must not change result type")


def binary_refused() -> ServerError:
    """The double's own: binary results are left out, since no client of ours may ask for them."""
    return ServerError("0A000", "the double of Materialize sends text only")

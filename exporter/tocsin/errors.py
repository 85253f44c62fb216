"""Errors, as types: one for each reader (the author of the configuration, the operator, the dispatcher)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum


class TocsinError(Exception):
    """The root of Tocsin's own errors. The text names the place and what to do, and holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a configuration."""

    code: str
    """The kind of problem. Each has one text."""
    message: str
    """What is wrong and what to do, in one line without a secret."""
    path: str = ""
    """Dotted, as in `alerts.late.key[0]`."""
    name: str = ""
    """The name that is wrong, where there is one."""
    available: tuple[str, ...] = ()
    """The names that exist instead."""
    file: str = ""
    line: int | None = None
    """Counts from 1."""

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.file and self.line else "")
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(TocsinError):
    """A configuration that cannot be used, with all its problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PluginError(TocsinError):
    """A type of channel or source that a package registers and that cannot be used."""

    def __init__(self, family: str, kind: str, why: str, packages: Sequence[str]) -> None:
        """`family`: channel or source. `kind`: the type. `packages`: those that register it."""
        super().__init__(f"{family} type {kind}: {why}")
        self.family = family
        self.kind = kind
        self.why = why
        self.packages = tuple(packages)


class ListenError(TocsinError):
    """The address to listen on cannot be bound."""


class StallError(TocsinError):
    """A source with `on_stall: exit` stalled, or another process has taken over."""


@contextmanager
def needing(extra: str, path: str) -> Iterator[None]:
    """Guard an import: a missing package becomes a ConfigError at `path` that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        fix = f"needs the Python package {error.name}; install it with: pip install 'tocsin[{extra}]'"
        raise ConfigError([Problem(code="missing_package", message=fix, path=path, name=extra)]) from None


class LedgerReason(StrEnum):
    """Why the ledger cannot be used."""

    LOCKED = "locked"
    FENCED = "fenced"
    """Another process has taken over."""
    SILENT = "silent"
    """The server does not answer."""
    FULL = "full"
    CORRUPT = "corrupt"
    NEWER = "newer_version"
    OLDER = "older_version"
    UNREADABLE = "unreadable"
    FAILED = "failed"


class LedgerError(TocsinError):
    """The ledger cannot be opened, read or written."""

    def __init__(self, message: str, reason: LedgerReason) -> None:
        super().__init__(message)
        self.reason = reason


class SourceReason(StrEnum):
    """Why a source delivers no rows; the values are metric labels."""

    CONNECT = "connect"
    AUTH = "auth"
    PERMISSION = "permission"
    MISSING = "missing"
    DROPPED = "dropped"
    REPLACED = "replaced"
    ROW_ERROR = "row_error"
    FELL_BEHIND = "fell_behind"
    TOO_LARGE = "too_large"
    STALLED = "stalled"
    FUTURE = "future"
    DISCONNECTED = "disconnected"
    SHAPE = "shape"
    INTERNAL = "internal"
    OTHER = "other"


class RefusedReason(StrEnum):
    """Why something that a source delivered is not a valid event; the values are metric labels."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    MISSING = "missing"


class SourceError(TocsinError):
    """A source cannot be read any further. Every one is retried with backoff. Its text is `server: message; fix`."""

    def __init__(
        self,
        message: str,
        reason: SourceReason,
        *,
        server: str = "",
        fix: str = "",
        history: bool = True,
        wait: float = 0.0,
    ) -> None:
        """`message`: what is wrong. `server`: where, without secrets. `fix`: what to do.

        `history`: whether the next attempt may ask for the history since the frontier. Without history, rows that came
        and went in between are lost, so it is False only where that is known to fail again: after a row error, an
        `AS OF` whose span contains the error fails although the view is healthy (seen on a live Materialize), and so
        does one that was too old.
        `wait`: seconds to wait at least before the next attempt, where the server counts reconnections.
        """
        super().__init__((f"{server}: " if server else "") + message + (f"; {fix}" if fix else ""))
        self.message = message
        self.reason = reason
        self.server = server
        self.fix = fix
        self.history = history
        self.wait = wait


class DeadLetterError(SourceError):
    """A dead letter cannot be stored. The subscription works: the caller keeps it open and repeats the failed step."""


class Reason(StrEnum):
    """Why a delivery failed; the values are metric labels, so the set is closed."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    IN_PROGRESS = "in_progress"
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"
    REJECTED = "rejected"
    NOT_FOUND = "not_found"
    NOT_PROCESSED = "not_processed"
    TOO_LARGE = "too_large"
    NO_RECIPIENTS = "no_recipients"
    TEMPLATE = "template"
    INTERNAL = "internal"
    TOO_EARLY = "too_early"
    EXHAUSTED = "exhausted"
    CRASHED = "crashed"
    EXPIRED = "expired"
    UNROUTED = "unrouted"

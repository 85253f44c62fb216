"""Answers of the server, before they become HTTP: Novu replays a stored error with a new timestamp and path."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeAlias

INTERNAL_ERROR = "Internal server error, contact support and provide them with the errorId"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def iso(at: float) -> str:
    """Seconds since the epoch as Novu writes times: UTC with milliseconds and a `Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A success. `body` is JSON; `None` is an answer without a body."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def render(self, path: str, at: float) -> Any:  # noqa: ARG002  (an error needs both)
        """The JSON body."""
        return self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error. `message` is a sentence, or a list of them where Novu validates field by field.

    `named`: whether the body carries `error`, the name of the status; Novu leaves it out of 429 and 500 and of some
    401.
    """

    status: int
    message: str | Sequence[str]
    named: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def render(self, path: str, at: float) -> dict[str, Any]:
        """The JSON body for a request of `path` at `at`."""
        message = self.message if isinstance(self.message, str) else list(self.message)
        body: dict[str, Any] = {"statusCode": self.status, "timestamp": iso(at), "path": path, "message": message}
        if self.named and self.status in _PHRASES:
            body["error"] = _PHRASES[self.status]
        return body | dict(self.extra)


Outcome: TypeAlias = Answer | Problem


class RejectedError(Exception):
    """Raised where a request is refused; carries the problem to answer with."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def bad_request(message: str | Sequence[str]) -> RejectedError:
    """A 400."""
    return RejectedError(Problem(status=400, message=message))


def not_found(message: str) -> RejectedError:
    """A 404."""
    return RejectedError(Problem(status=404, message=message))


def internal_error() -> Problem:
    """A 500 of Novu."""
    return Problem(status=500, message=INTERNAL_ERROR, named=False, extra={"errorId": str(uuid.uuid4())})

"""Answers of the server, before they become HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

Release: TypeAlias = Literal["2.0.0", "3.15.0"]


def iso(at: float) -> str:
    """Seconds since the epoch as Novu writes times: UTC with milliseconds and a `Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`body` is JSON; `None` is an answer without a body."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def problem(status: int, message: str | Sequence[str], headers: Mapping[str, str] | None = None) -> Answer:
    """An error. `message`: a sentence, or one for each invalid field."""
    return Answer(status=status, body={"statusCode": status, "message": message}, headers=headers or {})


class RefusedError(Exception):
    """A request is refused. `answer`: what the client gets."""

    def __init__(self, status: int, message: str | Sequence[str]) -> None:
        super().__init__(message)
        self.answer = problem(status, message)

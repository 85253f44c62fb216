"""Faults on request: what goes wrong with the next requests, for some of them or until it is cleared.

The models are the body of `POST /control/faults`, too.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from tocsin_demo.inbox.answers import Answer, problem

FaultKind: TypeAlias = Literal["status", "delay", "hang", "cut", "event_status", "bad_event"]


class Fault(BaseModel):
    """One fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    """`status`: answer with a status, and do nothing. `delay`: answer after some seconds. `hang`: never answer. `cut`:
    close the connection without an answer. `event_status`: answer 201 with a status for every event, and do nothing.
    `bad_event`: let one event of a bulk fail."""
    times: int | None = Field(default=None, ge=1)
    """For how many requests; None until it is cleared."""
    path: str = ""
    """Only for requests whose path starts like this."""
    method: str = ""
    status: int = Field(default=500, ge=300, le=599)
    retry_after: int | None = Field(default=None, ge=0)
    message: str = ""
    seconds: float = Field(default=0.0, ge=0.0, le=3600.0)
    event_status: str = "trigger_not_active"
    index: int = Field(default=0, ge=0)
    """Of the bad event."""
    processed: bool = False
    """Whether a request takes effect whose connection is cut."""
    stored: bool = False
    """Whether a status is kept under the idempotency key, like Novu's own errors; otherwise it is a proxy's."""

    def answer(self) -> Answer:
        """The answer of a `status` fault."""
        usual = "Internal server error" if self.status >= 500 else HTTPStatus(self.status).phrase
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return problem(self.status, self.message or usual, headers)


class Orders(BaseModel):
    """The body of `POST /control/faults`: the faults from now on (an empty list: none), and whether the worker runs.
    While it is down, triggers are answered and nothing is delivered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    faults: tuple[Fault, ...] | None = None
    worker: Literal["up", "down"] | None = None


class Faults:
    """The active faults. The first that matches a request is used. `round`: how often they were cleared."""

    def __init__(self) -> None:
        self.round = 0
        self._left: list[tuple[Fault, int | None]] = []

    @property
    def active(self) -> Sequence[Fault]:
        """The faults with the number of requests that they are still for."""
        return [fault.model_copy(update={"times": left}) for fault, left in self._left]

    def add(self, *faults: Fault) -> None:
        """Add faults after the active ones."""
        self._left += [(fault, fault.times) for fault in faults]

    def replace(self, faults: Sequence[Fault]) -> None:
        """Clear all faults and add these."""
        self._left.clear()
        self.round += 1
        self.add(*faults)

    def next(self, method: str, path: str) -> Fault | None:
        """The fault for this request. It counts as used."""
        for index, (fault, left) in enumerate(self._left):
            if path.startswith(fault.path) and fault.method.upper() in {"", method}:
                if left == 1:
                    del self._left[index]
                elif left is not None:
                    self._left[index] = (fault, left - 1)
                return fault
        return None


def event_answer(fault: Fault, body: Any) -> Answer:
    """The answer of an `event_status` fault: a 201 in which nothing was done."""
    entry = {"acknowledged": True, "status": fault.event_status}
    events = body.get("events") if isinstance(body, dict) else None
    return Answer(status=201, body={"data": [entry] * len(events) if isinstance(events, list) else entry})

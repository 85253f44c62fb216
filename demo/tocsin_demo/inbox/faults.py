"""Faults to order: what goes wrong with the next requests, until it has gone wrong often enough or is called off.

The models are the body of `POST /control/faults` as well.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from tocsin_demo.inbox.answers import Answer, Problem

FaultKind: TypeAlias = Literal["status", "delay", "hang", "cut", "garbage", "event_status", "bad_event"]

_PROCESSED_BY_DEFAULT = frozenset({"delay", "hang", "garbage"})
_MESSAGES = {
    401: "API Key not found",
    402: "Payment Required",
    403: "Forbidden",
    409: "Request is currently being processed. Please retry after 1 second",
    413: "Payload Too Large",
    429: "API rate limit exceeded",
}


class Fault(BaseModel):
    """One fault.

    `kind`: `status` answers with `status` (and `retry_after` seconds); `delay` answers after `seconds`; `hang` never
    answers; `cut` ends the connection without an answer; `garbage` answers 201 with a body that is no JSON;
    `event_status` answers 201 in which every event has the status `event_status`; `bad_event` makes the event number
    `index` of a bulk fail. `times`: for how many requests, none for until called off. `path`: only requests whose path
    starts with it. `method`: only such requests. `processed`: whether the request takes effect all the same; by default
    so for delay, hang and garbage. `stored`: a status is kept under the idempotency key, as Novu keeps its own errors;
    otherwise it is as if a proxy had said it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    times: int | None = Field(default=None, ge=1)
    path: str = ""
    method: str = ""
    status: int = Field(default=500, ge=300, le=599)
    retry_after: int | None = Field(default=None, ge=0)
    message: str = ""
    seconds: float = Field(default=0.0, ge=0.0, le=3600.0)
    event_status: str = "trigger_not_active"
    index: int = Field(default=0, ge=0)
    processed: bool | None = None
    stored: bool = False

    @property
    def takes_effect(self) -> bool:
        """Whether the request is processed though its answer goes wrong."""
        return self.kind in _PROCESSED_BY_DEFAULT if self.processed is None else self.processed

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault is meant for such a request."""
        return path.startswith(self.path) and (not self.method or method == self.method.upper())

    def problem(self) -> Problem:
        """The answer of a `status` fault."""
        message = self.message or _MESSAGES.get(
            self.status, "Internal server error" if self.status >= 500 else "Bad Request"
        )
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return Problem(status=self.status, message=message, named=self.status not in {429, 500}, headers=headers)


class Orders(BaseModel):
    """The body of `POST /control/faults`: the faults from now on (an empty list: none), and whether the worker runs.

    Without a worker a trigger is answered and nothing is delivered until it is up again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    faults: tuple[Fault, ...] | None = None
    worker: Literal["up", "down"] | None = None


class Faults:
    """The faults in force. The first that matches a request is used. `round` counts how often they were called off."""

    def __init__(self) -> None:
        self.round = 0
        self._left: list[tuple[Fault, int | None]] = []

    @property
    def active(self) -> Sequence[Fault]:
        """The faults with the number of requests that they still mean."""
        return [fault.model_copy(update={"times": left}) for fault, left in self._left]

    def add(self, *faults: Fault) -> None:
        """Put faults behind those in force."""
        self._left += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        """Call all faults off."""
        self._left.clear()
        self.round += 1

    def replace(self, faults: Sequence[Fault]) -> None:
        """Call all faults off and put these in force."""
        self.clear()
        self.add(*faults)

    def next(self, method: str, path: str) -> Fault | None:
        """The fault of this request, which counts as used."""
        for index, (fault, left) in enumerate(self._left):
            if fault.matches(method, path):
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

"""A silence as people ask for one."""

import re
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from tocsin.errors import TocsinError
from tocsin.settings import seconds
from tocsin.silences.matchers import parse
from tocsin.silences.silence import Silence


class AskingError(TocsinError):
    """A silence that cannot be made. The message names what is wrong."""


class Asked(BaseModel):
    """A silence to be made. Its end is `ends_at`, or `for` after its start."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    matchers: str
    reason: str = Field(max_length=1_000)
    duration: str | None = Field(None, alias="for")
    starts_at: str | None = None
    """Left out: now."""
    ends_at: str | None = None
    by: str = Field("", max_length=200)

    def made(self, id_: str, now: float) -> Silence:
        """The silence. Raises MatchersError, AskingError."""
        matchers = parse(self.matchers)
        if not self.reason.strip():
            raise AskingError("the reason is empty; say why, for those who find the silence")
        starts_at = now if self.starts_at is None else _moment(self.starts_at, now, "the start")
        if (self.duration is None) == (self.ends_at is None):
            raise AskingError("say when the silence ends: either how long it lasts, or its end")
        if self.duration is not None:
            ends_at = min(starts_at + _duration(self.duration), _LATEST)
        else:
            ends_at = _moment(str(self.ends_at), now, "the end")
        if ends_at <= max(starts_at, now):
            raise AskingError("the silence would end before it begins, or has ended already")
        return Silence(
            id=id_,
            matchers=matchers,
            starts_at=starts_at,
            ends_at=ends_at,
            reason=self.reason.strip(),
            by=self.by.strip(),
            created_at=now,
        )


def asked(data: object) -> Asked:
    """Read a silence from JSON. Raises AskingError."""
    try:
        return Asked.model_validate(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise AskingError(
            f"{place}: {first['msg']}" if place else "the body is not a silence: it has to be an object of JSON"
        ) from None


_LATEST = 253_402_300_799.0
"""The end of the year 9999."""


def _duration(text: str) -> float:
    try:
        return seconds(text)
    except PydanticCustomError as error:
        raise AskingError(error.message()) from None


def _moment(text: str, now: float, what: str) -> float:
    """A time as ISO 8601 with a zone, or as a duration from now."""
    if re.fullmatch(r"([0-9]+[a-z]+)+", text):
        return min(now + _duration(text), _LATEST)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise AskingError(
            f"{what} is {text!r}; write a time with its zone, as 2026-12-01T22:00Z or 2026-12-01T22:00+01:00,"
            " or from now on, as 30m"
        )
    return min(found.timestamp(), _LATEST)

"""What the channels share: the dispatcher's settings, the reading of HTTP answers, and the care for secrets in what
they say."""

import email.utils
import html
import json
import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from datetime import UTC
from typing import Annotated
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator, model_validator

from tocsin.channels import Delivered, Paused, Rejected, Result, Retry
from tocsin.envelope import CONDITION_VARIABLES
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.settings import Duration, Settings

MAX_DETAIL = 200
"""Characters of a receiver's answer that a result may quote."""

MAX_RETRY_AFTER = 86400.0
"""Seconds. A receiver that asks for more is asked again after a day."""


def condition(when: str | None) -> str | None:
    """A `when` as it stands in a configuration. Raises ValueError where it is no condition."""
    if when is not None:
        from tocsin.templates import Condition, TemplateError

        try:
            Condition(when, place="when", known=CONDITION_VARIABLES)
        except TemplateError as error:
            raise ValueError(str(error).removeprefix("when: ")) from None
    return when


class ChannelOptions(Settings):
    """What can be set for a channel and, over that, for each alert that notifies it."""

    on: Annotated[tuple[Kind, ...], Field(min_length=1)] = tuple(Kind)
    """Which notifications are sent: `fired`, `updated`, `resolved`, `repeated`, `event`."""

    when: str | None = None
    """An expression on the row, such as `row.severity == "page"`: only rows for which it holds are told. A row that
    changes so that it begins to hold fires on this channel, one that ceases to hold resolves."""

    interval: Duration = 0.0
    """The first notification goes at once; those that follow within this time are merged into one message, sent at its
    end, which opens the next interval. `0`: each goes on its own."""

    group_by: tuple[str, ...] = ()
    """With `interval`: columns or labels whose values are merged apart from each other. Without, the whole alert is one
    group. A row without one of the columns is sent on its own."""

    @field_validator("when")
    @classmethod
    def _is_a_condition(cls, when: str | None) -> str | None:
        return condition(when)

    @model_validator(mode="after")
    def _groups_are_merged(self) -> "ChannelOptions":
        if self.group_by and not self.interval:
            raise ValueError("group_by says what `interval` merges; give interval too")
        return self


class ChannelConfig(Settings):
    """What the dispatcher must know of every channel."""

    type: str
    """The kind of channel."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many requests are under way at once."""

    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """How long one attempt may take."""

    max_attempts: Annotated[int, Field(ge=1)] | None = None
    """After so many attempts a notification becomes a dead letter. Waits that the receiver asked for do not count.
    Without, only `max_age` ends the attempts, so that a receiver may be away for hours."""

    max_age: Annotated[Duration, Field(gt=0)] = 86400.0
    """A notification whose attempt fails after so long becomes a dead letter. One that was not attempted meanwhile, as
    while a channel is paused, is still sent."""

    backoff_initial: Annotated[Duration, Field(gt=0)] = 1.0
    """The wait after the first failed attempt; it doubles from one to the next."""

    backoff_max: Annotated[Duration, Field(gt=0)] = 300.0
    """The longest wait between two attempts."""

    rate_limit: Annotated[float, Field(gt=0)] | None = None
    """At most so many notifications a second; without, as many as the receiver takes."""

    @model_validator(mode="after")
    def _backoff_in_order(self) -> "ChannelConfig":
        if self.backoff_max < self.backoff_initial:
            raise ValueError("backoff_max must not be less than backoff_initial")
        return self


def classify(
    status: int, detail: str, after: float | None = None, *, free: AbstractSet[int] = frozenset({429})
) -> Result:
    """What an HTTP status means for a notification. `free`: the statuses with which a receiver only asks to wait."""
    if 200 <= status < 300:
        return Delivered()
    if status in _PAUSES:
        return Paused(Reason.UNAUTHORIZED, detail)
    reason = _RETRIED.get(status) or (Reason.SERVER_ERROR if status >= 500 else None)
    if reason is not None:
        return Retry(reason, detail, after, free=status in free)
    return Rejected(_FINAL.get(status, Reason.REJECTED), detail)


_PAUSES = {401, 402, 403}
_RETRIED = {
    408: Reason.TIMEOUT,
    409: Reason.IN_PROGRESS,
    425: Reason.TOO_EARLY,
    429: Reason.RATE_LIMITED,
}
_FINAL = {404: Reason.NOT_FOUND, 410: Reason.NOT_FOUND, 413: Reason.TOO_LARGE}


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110: seconds, or a date), None where it is absent or
    unreadable."""
    if header is None:
        return None
    try:
        wait = float(header)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    if not math.isfinite(wait):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)


def json_bytes(value: object) -> bytes:
    """The one JSON text of a value: compact, keys in the order given, UTF-8. The same value gives the same bytes."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can carry
        return json.dumps(value, separators=(",", ":")).encode()


def redactor(secrets: Iterable[SecretStr | str]) -> Callable[[str], str]:
    """What takes secrets out of a receiver's words, makes them one line and shortens them.

    Each secret goes whole and, if it has blanks in it (`Bearer abc...`), its longer words too, as they are and as a
    receiver may escape them.
    """
    words: set[str] = set()
    for secret in secrets:
        text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        words |= {text, *(word for word in text.split() if len(word) >= 8)}
    words |= {spelling for word in words for spelling in _spellings(word)}
    ordered = sorted((word for word in words if len(word) > 3), key=len, reverse=True)  # `1` is no secret

    def redact(text: str) -> str:
        for word in ordered:
            text = text.replace(word, "***")
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"

    return redact


def _spellings(word: str) -> tuple[str, ...]:
    """A word in JSON, in the log of a Python program, in an address, and on a web page."""
    return json.dumps(word)[1:-1], repr(word)[1:-1], quote(word, safe=""), html.escape(word)

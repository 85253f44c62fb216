"""Events that others send to Tocsin's own port: `POST /api/v1/events/<alert>`. A request is answered once the ledger
has what it holds."""

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tocsin.channels.webhook.signing import Signer
from tocsin.errors import SourceError, SourceReason
from tocsin.model import Event
from tocsin.settings import Secret
from tocsin.sources import EventBatch, EventStream
from tocsin.sources.documents import lines, row_of
from tocsin.sources.settings import SourceSettings

_MOST_WAITING = 10_000
_AT_ONCE = 1_000
"""Requests that are written to the ledger in one transaction."""

_DIGITS = 12
"""Of a time in seconds; more are no time."""

_TOLERANCE = 300.0
"""Seconds by which a signed request's time may differ from this machine's. Rule of the Standard Webhooks
specification."""


class Config(SourceSettings):
    """Events that others send to Tocsin's own port. Each alert has an address, `/api/v1/events/<alert>`."""

    secrets: ClassVar[tuple[str, ...]] = ("token", "signing_secret")
    delivers: ClassVar[Literal["rows", "events"]] = "events"
    subjects: ClassVar[tuple[str, ...]] = ("event",)

    token: Secret | None = None
    """What a sender shows as `Authorization: Bearer <token>`. Either this or `signing_secret`."""
    token_file: str | None = None
    """A file that holds the token."""
    signing_secret: Secret | None = None
    """The secret, `whsec_...`, with which senders sign by the Standard Webhooks specification."""
    signing_secret_file: str | None = None
    """A file that holds the signing secret."""
    max_body: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = 1024 * 1024
    """Bytes that one request may have."""

    @field_validator("token")
    @classmethod
    def _is_long(cls, token: Secret | None) -> Secret | None:
        if token is not None and len(token.get_secret_value()) < 16:
            raise ValueError("has fewer than 16 characters, which can be guessed")
        return token

    @field_validator("signing_secret")
    @classmethod
    def _is_a_key(cls, secret: Secret | None) -> Secret | None:
        if secret is not None:
            Signer([secret.get_secret_value()])
        return secret

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if (self.token is None) == (self.signing_secret is None):
            raise ValueError(
                "give either token or signing_secret: whoever reaches the port could send events otherwise"
            )
        return self


def build(name: str, config: Config, *, clock: Callable[[], float] = time.time) -> "Http":
    """Make the source. `clock`: wall-clock seconds."""
    return Http(name, config, clock)


class RefusedRequest(Exception):  # noqa: N818 - an answer, not a fault
    """A request that brings no events: the HTTP status to answer with, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Posted:
    """The events of one request, and who waits for them to be safe."""

    events: Sequence[Event]
    safe: asyncio.Future[None]


class Http:
    """See `tocsin.sources.EventSource`; `receive` is for the web server."""

    def __init__(self, name: str, config: Config, clock: Callable[[], float]) -> None:
        self.max_body = config.max_body
        self._name = name
        self._config = config
        self._clock = clock
        self._stream: _Stream | None = None

    def __repr__(self) -> str:
        return f"Http({self._name!r})"

    @asynccontextmanager
    async def open(self, names: Sequence[str], *, position: Mapping[str, int]) -> AsyncIterator[EventStream]:  # noqa: ARG002
        self._stream = stream = _Stream()
        try:
            yield stream
        finally:
            self._stream = None
            stream.close()

    async def receive(self, name: str, headers: Mapping[str, str], body: bytes) -> int:
        """Take one request in, and return the number of its events once they are safe. `headers`: names in lower case.

        Raises RefusedRequest, and SourceError while the ledger cannot take events.
        """
        self._must_be_allowed(headers, body)
        events = self._events(name, headers, body)
        if self._stream is None:
            raise SourceError("Tocsin cannot take events now; try again", SourceReason.DISCONNECTED)
        await self._stream.post(events)
        return len(events)

    def _must_be_allowed(self, headers: Mapping[str, str], body: bytes) -> None:
        if self._config.token is not None:
            shown = headers.get("authorization", "")
            expected = f"Bearer {self._config.token.get_secret_value()}"
            if not hmac.compare_digest(shown.encode(errors="surrogateescape"), expected.encode()):
                raise RefusedRequest(401, "the token is missing or wrong; send `Authorization: Bearer <token>`")
        elif self._config.signing_secret is not None:
            _must_be_signed(self._config.signing_secret, headers, body, self._clock())

    def _events(self, name: str, headers: Mapping[str, str], body: bytes) -> list[Event]:
        try:
            documents = lines(body)
        except ValueError as error:
            raise RefusedRequest(
                400, f"the body is neither a JSON object, nor a list or lines of them: {error}"
            ) from None
        if not documents:
            raise RefusedRequest(400, "the body has no event in it")
        # A sender that repeats a request names it; another's request is another event, whatever it says.
        # Of a signed one only the id that is signed counts: with another header it could be sent again as a new one.
        named = headers.get("webhook-id") if self._config.token is None else headers.get("idempotency-key")
        id_ = named or secrets.token_hex(16)
        at = round(self._clock() * 1000)
        events = []
        for number, document in enumerate(documents):
            columns, row = row_of(document)
            identity = id_ if len(documents) == 1 else f"{id_}/{number}"
            events.append(Event(name=name, id=f"{self._name}/{name}/{identity}", at=at, columns=columns, row=row))
        return events


class _Stream:
    """What has been posted and is not in the ledger yet."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[_Posted] = asyncio.Queue(_MOST_WAITING)
        self._taken: set[_Posted] = set()

    async def post(self, events: Sequence[Event]) -> None:
        posted = _Posted(events=events, safe=asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(posted)
        except asyncio.QueueFull:
            raise SourceError("too many requests wait; try again", SourceReason.OTHER) from None
        await posted.safe

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            taken = [await self._waiting.get()]
            while len(taken) < _AT_ONCE and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            self._taken.update(taken)
            yield EventBatch(events=[event for posted in taken for event in posted.events], receipt=taken)

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:  # noqa: ARG002
        assert isinstance(batch.receipt, list)
        for posted in batch.receipt:
            self._taken.discard(posted)
            if not posted.safe.done():
                posted.safe.set_result(None)

    def close(self) -> None:
        """Tell everybody who waits to come again."""
        while not self._waiting.empty():
            self._taken.add(self._waiting.get_nowait())
        for posted in self._taken:
            if not posted.safe.done():
                posted.safe.set_exception(
                    SourceError("Tocsin cannot take events now; try again", SourceReason.DISCONNECTED)
                )


def _must_be_signed(secret: Secret, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """The Standard Webhooks specification, version 1: https://www.standardwebhooks.com"""
    id_, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id_.isascii() or not id_ or not (moment.isascii() and moment.isdigit() and len(moment) <= _DIGITS):
        raise RefusedRequest(401, "the request is not signed: webhook-id and webhook-timestamp are missing or wrong")
    if abs(now - int(moment)) > _TOLERANCE:
        raise RefusedRequest(401, "the request is too old or too new; mend the clock of the sender or of this machine")
    expected = Signer([secret.get_secret_value()]).headers(id_, int(moment), body)["webhook-signature"]
    shown = headers.get("webhook-signature", "").split()
    if not any(hmac.compare_digest(one.encode(errors="surrogateescape"), expected.encode()) for one in shown):
        raise RefusedRequest(401, "the signature is missing or wrong")

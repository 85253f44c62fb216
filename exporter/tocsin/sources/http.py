"""Events over HTTP: `POST /api/v1/events/<alert>`. A request is answered when its events are in the ledger."""

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Event
from tocsin.settings import Secret
from tocsin.sources.base import EventBatch, EventStream
from tocsin.sources.documents import form, lines, row_of
from tocsin.sources.settings import EventSourceSettings, Positive
from tocsin.sources.signatures import SCHEMES, Claim, Name, NotSigned

_MAX_REQUESTS = 10_000
"""Concurrent requests at most."""

_BATCH = 1_000
"""Requests in one transaction of the ledger."""

_DIGITS = 12
"""Digits of a length in bytes at most."""

_SMALL = 64 * 1024
"""Bytes of a body that parses faster than a switch to another thread."""

_ENCODINGS = frozenset({"", "identity", "gzip", "deflate", "br", "zstd"})
"""Content encodings that the web server takes off."""


class Config(EventSourceSettings):
    """Events over HTTP, sent to Tocsin's own port. Each alert has an address, `/api/v1/events/<alert>`."""

    secrets: ClassVar[tuple[str, ...]] = ("token", "signing_secret")

    token: Secret | None = None
    """The token of senders: `Authorization: Bearer <token>`. Set this or `signing_secret`."""
    token_file: str | None = None
    """A file that holds the token."""
    signature: Name = "standard"
    """How senders sign: by the Standard Webhooks specification, or as GitHub, dbt Cloud, Stripe or Slack do."""
    signing_secret: Secret | None = None
    """The secret with which senders sign. For `standard` it begins with `whsec_`."""
    signing_secret_file: str | None = None
    """A file that holds the signing secret."""
    max_body: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = 1024 * 1024
    """Bytes of one request at most."""
    max_waiting: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Bytes of all requests together that are being read or wait for the ledger. Requests beyond get 503."""
    read_timeout: Positive = 10.0
    """How long the body of a request may take to arrive. The port waits for 30 s at most."""

    @field_validator("token")
    @classmethod
    def _can_be_shown(cls, token: Secret | None) -> Secret | None:
        if token is None:
            return None
        text = token.get_secret_value()
        if len(text) < 16:
            raise ValueError("has fewer than 16 characters and can be guessed")
        if not (text.isascii() and text.isprintable()) or text != text.strip():
            raise ValueError("must be printable ASCII without blanks around it: a header can carry nothing else")
        return token

    @field_validator("signing_secret")
    @classmethod
    def _is_a_key(cls, secret: Secret | None, info: ValidationInfo) -> Secret | None:
        if secret is not None and "signature" in info.data:
            SCHEMES[info.data["signature"]].key(secret.get_secret_value())
        return secret

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.token is not None and self.signing_secret is not None:
            raise ValueError("set token or signing_secret, not both; make a second source for the other senders")
        if self.token is None and self.signing_secret is None:
            raise ValueError("set token or signing_secret: otherwise anyone who reaches the port could send events")
        if self.token is not None and "signature" in self.model_fields_set:
            raise ValueError("signature says how senders sign; with token they do not")
        if self.max_waiting < self.max_body:
            raise ValueError("max_waiting is less than max_body; one request of that size would never fit")
        return self


def build(name: str, config: Config, *, clock: Callable[[], float] = time.time) -> "Http":
    """Build the source. `clock`: wall-clock seconds."""
    return Http(name, config, clock)


_Stored: TypeAlias = asyncio.Future[None]
"""Resolved when the ledger has the events of a request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request that is not refused."""

    status: int = 202
    body: Mapping[str, Any] | None = None
    """JSON; None: empty."""


class RefusedRequest(Exception):  # noqa: N818 - an answer, not a fault
    """A request is refused: the HTTP status of the answer, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Http:
    """See `tocsin.sources.base.EventSource`; `receive` is for the web server."""

    def __init__(self, name: str, config: Config, clock: Callable[[], float]) -> None:
        self._name = name
        self._config = config
        self._clock = clock
        secret = config.signing_secret
        self._scheme = None if secret is None else SCHEMES[config.signature]
        self._key = b"" if secret is None else SCHEMES[config.signature].key(secret.get_secret_value())
        self._stream: _Stream | None = None
        # The memory of all current requests, from their first byte until they are answered.
        self._requests = 0
        self._bytes = 0

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

    async def receive(self, name: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Answer:
        """Ingest one request; returns the answer once its events are in the ledger. `headers`: names in lower case.
        `body`: as it arrives; not read if the headers already lead to a refusal.

        Raises RefusedRequest, and SourceError while events cannot be stored.
        """
        claim = self._authorize(headers)
        self._opened()
        with self._memory() as hold:
            whole = await self._read(headers, body, hold)
            if len(whole) > _SMALL:
                events, answer = await asyncio.to_thread(self._events, name, headers, whole, claim)
            else:
                events, answer = self._events(name, headers, whole, claim)
            if events:
                await self._opened().post(events)
        return answer

    def _opened(self) -> "_Stream":
        if self._stream is None:
            raise _not_now()
        return self._stream

    def _authorize(self, headers: Mapping[str, str]) -> Claim | None:
        """Check the token, or return what the headers say about the signature of the body."""
        if self._scheme is not None:
            try:
                return self._scheme.claim(headers, self._clock())
            except NotSigned as why:
                raise RefusedRequest(401, str(why)) from None
        assert self._config.token is not None
        shown = headers.get("authorization", "")
        expected = f"Bearer {self._config.token.get_secret_value()}"
        if not hmac.compare_digest(shown.encode(errors="surrogateescape"), expected.encode()):
            raise RefusedRequest(401, "the token is missing or wrong; send `Authorization: Bearer <token>`")
        return None

    @contextmanager
    def _memory(self) -> Iterator[Callable[[int], None]]:
        """Count a request, which reports the bytes it holds with the yielded function. Raises SourceError if a limit is
        reached."""
        if self._requests >= _MAX_REQUESTS:
            raise _too_many()
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            if self._bytes + more > self._config.max_waiting:
                raise _too_many()
            self._bytes += more
            held += more

        self._requests += 1
        try:
            yield hold
        finally:
            self._requests -= 1
            self._bytes -= held

    async def _read(self, headers: Mapping[str, str], body: AsyncIterable[bytes], hold: Callable[[int], None]) -> bytes:
        """Read the whole body. `hold` gets the size of each piece."""
        most, limit = self._config.max_body, self._config.read_timeout
        if headers.get("content-encoding", "").lower() not in _ENCODINGS:
            raise RefusedRequest(415, "the content encoding is unknown; send the body as it is, or as gzip or deflate")
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:_DIGITS]) > most:
            raise RefusedRequest(413, f"more than {most} bytes")
        pieces: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(limit):
                async for piece in body:
                    length += len(piece)
                    if length > most:
                        raise RefusedRequest(413, f"more than {most} bytes")
                    hold(len(piece))
                    pieces.append(piece)
        except TimeoutError:
            raise RefusedRequest(408, f"the request did not arrive within {limit:g} s") from None
        return b"".join(pieces)

    def _events(
        self, name: str, headers: Mapping[str, str], body: bytes, claim: Claim | None
    ) -> tuple[list[Event], Answer]:
        """The events of a request, and the answer once they are stored."""
        fallback = self._verified(headers, body, claim)
        try:
            documents = [form(body)] if _is_form(headers, body) else lines(body)
        except ValueError as error:
            raise RefusedRequest(
                400, f"the body is neither a JSON object, nor a list or lines of them, nor a form: {error}"
            ) from None
        if not documents:
            raise RefusedRequest(400, "the body has no event in it")
        answer = self._greeted(headers, documents[0])
        if answer is not None:
            return [], answer
        at = round(self._clock() * 1000)
        events = []
        for number, document in enumerate(documents):
            columns, row = row_of(document)
            identity = fallback if len(documents) == 1 else f"{fallback}/{number}"
            if self._scheme is not None:
                identity = self._scheme.event_id(document) or identity
            events.append(Event(name=name, id=f"{self._name}/{name}/{identity}", at=at, columns=columns, row=row))
        # Slack shows the body of an answer to the user, and takes 200 only.
        return events, Answer(200) if self._signed_by("slack") else Answer(202, {"events": len(events)})

    def _verified(self, headers: Mapping[str, str], body: bytes, claim: Claim | None) -> str:
        """Check the signature. Returns an id for the request: the sender's, which stays when it repeats the request, or
        a random one."""
        random = secrets.token_hex(16)
        if self._scheme is None or claim is None:
            return headers.get("idempotency-key") or random
        try:
            signature = self._scheme.verify(self._key, claim, body)
        except NotSigned as why:
            raise RefusedRequest(401, str(why)) from None
        # An id that is not signed does not count, since a request could be replayed as a new one. GitHub signs none.
        return claim.id_ or (signature if claim.at is not None else random)

    def _greeted(self, headers: Mapping[str, str], document: Mapping[str, Any]) -> Answer | None:
        """The answer to what a sender posts when its webhook is set up. None for an event."""
        if self._signed_by("slack") and document.get("type") == "url_verification":
            return Answer(200, {"challenge": document.get("challenge")})
        if self._signed_by("github") and headers.get("x-github-event") == "ping":
            return Answer(202, {"events": 0})
        return None

    def _signed_by(self, name: Name) -> bool:
        return self._scheme is SCHEMES[name]


def _is_form(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the body is a form. A form does not begin with a bracket; curl sends JSON with the type of a form."""
    type_ = headers.get("content-type", "").partition(";")[0].strip().lower()
    return type_ == "application/x-www-form-urlencoded" and body.lstrip()[:1] not in (b"{", b"[")


def _too_many() -> SourceError:
    return SourceError("too many requests; try again", SourceReason.OTHER)


def _not_now() -> SourceError:
    return SourceError("Tocsin cannot store events now; try again", SourceReason.DISCONNECTED)


class _Stream:
    """Posted events that are not in the ledger yet."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[Sequence[Event], _Stored]] = asyncio.Queue()
        self._unanswered: set[_Stored] = set()
        self._refusing = False

    async def post(self, events: Sequence[Event]) -> None:
        """Return when the ledger has the events. Raises SourceError while it cannot store them."""
        if self._refusing:
            raise _not_now()
        stored: _Stored = asyncio.get_running_loop().create_future()
        self._unanswered.add(stored)
        stored.add_done_callback(self._unanswered.discard)
        self._waiting.put_nowait((events, stored))
        await stored

    async def batches(self) -> AsyncIterator[EventBatch]:
        while True:
            self._refusing = False
            taken = [await self._waiting.get()]
            while len(taken) < _BATCH and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            yield EventBatch(
                events=[event for events, _ in taken for event in events], receipt=[stored for _, stored in taken]
            )

    async def prepare(self, batch: EventBatch) -> None:
        """Do nothing: refused requests are answered at once."""

    async def hold(self) -> bool:
        # Senders repeat a request that is answered with 503. Without an answer they wait.
        self._refusing = True
        self.close()
        return False

    async def acknowledge(self, batch: EventBatch, unmatched: Sequence[Event]) -> None:  # noqa: ARG002
        assert isinstance(batch.receipt, list)
        for stored in batch.receipt:
            if not stored.done():
                stored.set_result(None)

    def close(self) -> None:
        """Answer every waiting request with an error that asks to try again."""
        self._waiting = asyncio.Queue()
        for stored in self._unanswered:
            if not stored.done():
                stored.set_exception(_not_now())

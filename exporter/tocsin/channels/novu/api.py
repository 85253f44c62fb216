"""Novu's API through its SDK: each call returns an `Answer` or the `Result` of having none, and never raises.

The SDK's response models do not fit every server: an ordinary 422 or a 201 with a status it does not know ends in an
exception (seen on a live server). So only the HTTP status and, where there is one, the body count, never the
exception's class.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx
import novu_py
from novu_py import models
from novu_py.utils import RetryConfig
from pydantic import BaseModel

from tocsin.channels.base import Paused, Rejected, Result, Retry
from tocsin.channels.http import classify, retry_after
from tocsin.channels.novu import workflows
from tocsin.channels.novu.events import Event
from tocsin.channels.novu.settings import Config
from tocsin.errors import Reason
from tocsin.redaction import redactor

Body = TypeVar("Body")

Entry: TypeAlias = tuple[str, str]
"""What became of one event: Novu's status for it, and its errors."""

NoAnswer: TypeAlias = Retry | Rejected
"""There was no HTTP answer: the result of the attempt."""

PROCESSED = "processed"

NO_ENTRY = "no_answer"
"""The status of an event for which the answer to a bulk has no entry."""

_WAITS = frozenset({409, 429})
_LOOKS = 5
"""Idempotency keys that one attempt tries."""
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer: its status, its headers in lower case, and its content without the outer `data`."""

    status: int
    headers: Mapping[str, str]
    content: Any = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def entry(self) -> Entry:
        """What became of the one event."""
        return _entry(self.content)

    def entries(self, ids: Sequence[str]) -> list[Entry]:
        """What became of each event of a bulk, in the order of their ids.

        All were accepted if the content is no list or an empty one. In a list of another length only the entries that
        name an id count.
        """
        if not isinstance(self.content, list) or not self.content:
            return [_entry(None)] * len(ids)
        if len(self.content) == len(ids):
            return [_entry(item) for item in self.content]
        named = {_id_of(item): _entry(item) for item in self.content}
        unnamed = NO_ENTRY, f"Novu answered {len(self.content)} of {len(ids)} events, and not for this one"
        return [named.get(id_, unnamed) for id_ in ids]

    @property
    def stale(self) -> bool:
        """Whether this is an old answer under a used idempotency key: a stored error, or one about the key itself.

        Novu keeps errors for a day like successes and repeats them, though their cause may be gone.
        """
        if self.status < 400 or self.status in _WAITS:
            return False
        return self.headers.get("idempotency-replay") == "true" or _REUSED in _message(self.content)


_REUSED = "is being reused for a different body"


class Api:
    """The SDK with its retries off, its log silent, and one pool of connections."""

    def __init__(self, config: Config, now: Callable[[], float]) -> None:
        self._now = now
        self._timeout = config.timeout
        self._unknown_wait = config.unknown_outcome_wait
        self.redact = redactor([config.api_key])
        context = httpx.create_ssl_context()
        # httpx follows no redirects unless told to, which the client that the SDK would make is.
        limits = httpx.Limits(max_connections=2 * config.concurrency)
        self._async = httpx.AsyncClient(verify=context, limits=limits)
        self._sync = httpx.Client(verify=context)
        self._sdk = novu_py.Novu(
            secret_key=config.api_key.get_secret_value(),
            server_url=config.url,
            client=self._sync,
            async_client=self._async,
            retry_config=RetryConfig("none", None, False),  # type: ignore[arg-type]  # as the SDK's page has it
            timeout_ms=max(1, round(config.timeout * 1000)),
            debug_logger=_Silent(),
        )
        # Imported by the SDK at first use, for a third of a second: better now than between two messages.
        self._messages = self._sdk.messages
        self._workflows = self._sdk.workflows
        self.trigger_limit: int | None = None
        # Idempotency key -> how many keys made of it hold an old error. After a restart they are tried again.
        self._used: dict[str, int] = {}

    async def close(self) -> None:
        await self._async.aclose()
        self._sync.close()

    async def trigger(self, event: Event, key: str) -> Answer | NoAnswer:
        """Trigger one event. `key`: its idempotency key."""
        return await self._send(
            lambda: models.TriggerEventRequestDto.model_validate(event),
            lambda body, fresh: self._sdk.trigger_async(trigger_event_request_dto=body, idempotency_key=fresh),
            key,
        )

    async def trigger_bulk(self, events: Sequence[Event], key: str) -> Answer | NoAnswer:
        """Trigger up to 100 events. The answer has an entry for each, in order."""
        return await self._send(
            lambda: models.BulkTriggerEventDto.model_validate({"events": events}),
            lambda body, fresh: self._sdk.trigger_bulk_async(bulk_trigger_event_dto=body, idempotency_key=fresh),
            key,
        )

    async def cancel(self, transaction_id: str) -> Answer | NoAnswer:
        """Cancel what still waits of a trigger; the content is whether there was anything."""
        call = self._sdk.cancel_async(transaction_id=_in_path(transaction_id), idempotency_key=transaction_id)
        return self._seen(await self._ask(call))

    async def delete_in_app(self, transaction_id: str) -> Answer | NoAnswer:
        """Take back delivered in-app messages; 404 where there are none (yet, or any more)."""
        channel = models.MessagesControllerDeleteMessagesByTransactionIDQueryParamChannel.IN_APP
        return await self._ask(
            self._messages.delete_by_transaction_id_async(
                transaction_id=_in_path(transaction_id), channel=channel, idempotency_key=transaction_id
            )
        )

    async def workflow(self, identifier: str) -> Answer | NoAnswer:
        """A workflow's document."""
        return await self._ask(self._workflows.get_async(workflow_id=_in_path(identifier)))

    def failure(self, answer: Answer) -> Result:
        """What an answer that is not 2xx means for the notification."""
        if 300 <= answer.status < 400:
            # It says nothing of the notification: whatever answers at this address is not Novu's API.
            return Paused(Reason.REJECTED, f"{answer.status}: a redirect, which is not followed; correct the url")
        after = retry_after(answer.headers.get("retry-after"), self._now())
        if answer.status >= 500 or answer.status == 408:  # a gateway says this too, while Novu works on
            after = max(after or 0.0, self._unknown_wait)
        return classify(answer.status, self.said(answer), after, free=_WAITS)

    def said(self, answer: Answer) -> str:
        """An answer that is not 2xx in one line, without secrets."""
        return self.redact(f"{answer.status} {_message(answer.content)}")

    def workflow_problems(self, identifier: str, answer: Answer) -> list[str]:
        """What is wrong with a workflow by the answer about it, as sentences; none too where the server does not say
        (an old one, another key)."""
        if answer.ok:
            content = answer.content
            if isinstance(content, BaseModel):
                content = content.model_dump(mode="json", by_alias=True)
            return [self.redact(problem) for problem in workflows.problems(identifier, content)]
        unknown = answer.status == 404 and not _message(answer.content).startswith("Cannot GET")
        return [f"Novu has no workflow {identifier!r}"] if unknown else []

    async def _send(
        self, make: Callable[[], Body], call: Callable[[Body, str], Awaitable[Any]], key: str
    ) -> Answer | NoAnswer:
        """Make the SDK's model of a body and post it. Left to the SDK, which looks for models in all the data first,
        making it costs three times as much.

        Where Novu has stored an error under the key, the body goes under the next key: `key-1`, `key-2` and so on. A
        repeat comes to the same key as the attempt before, whose outcome may be unknown."""
        try:
            body = make()
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            return Rejected(Reason.REJECTED, self.redact(f"the SDK does not take this event: {error}"))
        for _ in range(_LOOKS):
            used = self._used.get(key, 0)
            # The event's transactionId still keeps Novu from delivering it twice.
            answer = self._seen(await self._ask(call(body, f"{key}-{used}" if used else key)))
            if not isinstance(answer, Answer) or not answer.stale:
                return answer
            self._remember(key, used + 1)
        return Retry(Reason.SERVER_ERROR, "Novu repeats old errors under used idempotency keys", self._unknown_wait)

    def _remember(self, key: str, used: int) -> None:
        self._used[key] = used
        while len(self._used) > _REMEMBERED:
            del self._used[next(iter(self._used))]

    async def _ask(self, call: Awaitable[Any]) -> Answer | NoAnswer:
        try:
            async with asyncio.timeout(self._timeout):  # the SDK's own timeout starts anew with every byte
                response = await call
        except models.NovuError as error:
            return Answer(status=error.status_code, headers=error.headers, content=_json(error.body))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Retry(Reason.CONNECTION, self.redact(f"cannot connect: {str(error) or type(error).__name__}"))
        except (TimeoutError, httpx.TimeoutException):
            return Retry(Reason.TIMEOUT, f"no answer within {self._timeout:g} s", self._unknown_wait)
        except (httpx.HTTPError, httpx.StreamError, models.NoResponseError, OSError) as error:
            return Retry(Reason.CONNECTION, self.redact(str(error) or type(error).__name__), self._unknown_wait)
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            return Rejected(Reason.REJECTED, self.redact(f"the SDK does not take this event: {error}"))
        headers = {name: values[0] for name, values in response.headers.items() if values}
        return Answer(status=200, headers=headers, content=getattr(response, "result", None))

    def _seen(self, answer: Answer | NoAnswer) -> Answer | NoAnswer:
        if isinstance(answer, Answer):
            limit = answer.headers.get("ratelimit-limit", "")
            if limit.isascii() and limit.isdigit():
                self.trigger_limit = int(limit)
        return answer


class _Silent:
    """The SDK's own log shows every body, and NOVU_DEBUG in the environment would turn it on, for the whole process."""

    def debug(self, msg: str, *args: object, **kwargs: object) -> None:
        """Say nothing."""


def _in_path(id_: str) -> str:
    """An id as a part of an address. The SDK quotes neither `#`, `?` nor `/`: `order-7#2` would cancel `order-7`."""
    return quote(id_, safe="")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _entry(item: Any) -> Entry:
    # A 2xx that says nothing readable was accepted.
    if isinstance(item, models.TriggerEventResponseDto):
        return item.status.value, "; ".join(item.error or ())
    if not isinstance(item, dict) or not isinstance(item.get("status"), str):
        return PROCESSED, ""
    errors = item.get("error")
    return item["status"], "; ".join(map(str, errors)) if isinstance(errors, list) else str(errors or "")


def _id_of(item: Any) -> str | None:
    """The transaction id that an entry names."""
    if isinstance(item, models.TriggerEventResponseDto):
        return item.transaction_id
    found = item.get("transactionId") if isinstance(item, dict) else None
    return found if isinstance(found, str) else None


def _message(content: Any) -> str:
    """What an error's body says: its `message`, which may be a list, and its `errors`."""
    if not isinstance(content, dict):
        return str(content or "")
    said = content.get("message", "")
    parts = [str(part) for part in (said if isinstance(said, list) else [said])]
    if content.get("errors"):
        parts.append(json.dumps(content["errors"], default=str))
    return "; ".join(part for part in parts if part)

"""Novu's API through its SDK: each call returns what Novu answered, or raises `CallError`.

The SDK's response models do not fit every server: an ordinary 422 or a 201 with a status it does not know ends in an
exception (seen on a live server). So only the HTTP status and, where there is one, the body count, never the
exception's class.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import novu_py
from novu_py import models
from novu_py.utils import RetryConfig
from pydantic import BaseModel

from tocsin.channels.base import Paused, Rejected, Retry
from tocsin.channels.http import classify, retry_after
from tocsin.channels.novu.events import Event
from tocsin.channels.novu.settings import Config
from tocsin.errors import Reason
from tocsin.faults import why_unreachable
from tocsin.redaction import masker, redactor

PROCESSED = "processed"

NO_ENTRY = "no_answer"
"""The status of an event for which the answer to a bulk has no entry."""

_WAITS = frozenset({409, 429})
_MAX_KEYS = 5
"""Idempotency keys that one attempt tries."""
_REMEMBERED = 10_000

_KEY_REUSED = "is being reused for a different body"

V = TypeVar("V")


def remember(memory: dict[str, V], id_: str, value: V) -> None:
    """Keep a value by its id; the oldest of 10,000 is forgotten."""
    memory[id_] = value
    while len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]


class CallError(Exception):
    """A call without success. `result`: what that means for a notification. `status`: 0 without an HTTP answer."""

    def __init__(self, result: Retry | Rejected | Paused, status: int = 0) -> None:
        super().__init__(result.detail)
        self.result = result
        self.status = status


class Entry(NamedTuple):
    """What Novu says of one event. `errors`: empty, or why it is not processed."""

    status: str
    errors: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """An HTTP answer; the headers in lower case, the content without the outer `data`."""

    status: int
    headers: Mapping[str, str]
    content: Any = None

    @property
    def stale(self) -> bool:
        """Whether this is an old answer under a used idempotency key: a stored error, or one about the key itself.

        Novu stores errors for a day, as it does successes, and repeats them although their cause may be gone.
        """
        if self.status < 400 or self.status in _WAITS:
            return False
        return self.headers.get("idempotency-replay") == "true" or _KEY_REUSED in _message(self.content)


class Api:
    """The SDK without its retries and its log, on one pool of connections."""

    def __init__(self, config: Config, now: Callable[[], float]) -> None:
        self._now = now
        self._timeout = config.timeout
        self._unknown_wait = config.unknown_outcome_wait
        self._server = httpx.URL(config.url).netloc.decode()
        self.redact = redactor([config.api_key])
        self.mask = masker([config.api_key])
        context = httpx.create_ssl_context()
        # Unlike the client that the SDK makes, these follow no redirects.
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
        """The rate limit of triggers that Novu names, in tokens per second."""
        # Idempotency key -> how many keys made of it hold an old error. After a restart they are tried again.
        self._used: dict[str, int] = {}

    async def close(self) -> None:
        await self._async.aclose()
        self._sync.close()

    async def trigger(self, events: Sequence[Event], key: str) -> list[Entry]:
        """Trigger one event, or up to 100 in bulk; an entry for each, in order. `key`: the idempotency key."""
        call: Callable[..., Awaitable[Any]]
        try:
            # The SDK would make the models itself, but searches all data for models first: three times as slow.
            if len(events) == 1:
                one = models.TriggerEventRequestDto.model_validate(events[0])
                call = partial(self._sdk.trigger_async, trigger_event_request_dto=one)
            else:
                several = models.BulkTriggerEventDto.model_validate({"events": events})
                call = partial(self._sdk.trigger_bulk_async, bulk_trigger_event_dto=several)
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            raise self._refused(error) from None
        content = (await self._send(call, key)).content
        if len(events) == 1:
            return [_entry(content)]
        return _entries(content, [event["transaction_id"] for event in events])

    async def cancel(self, transaction_id: str) -> bool:
        """Cancel what still waits of a trigger, and return whether there was anything."""
        call = self._sdk.cancel_async(transaction_id=_in_path(transaction_id), idempotency_key=transaction_id)
        return self._successful(self._limited(await self._ask(call))).content is True

    async def delete_in_app(self, transaction_id: str) -> bool:
        """Delete delivered in-app messages, and return whether there were any (yet, or still)."""
        channel = models.MessagesControllerDeleteMessagesByTransactionIDQueryParamChannel.IN_APP
        answer = await self._ask(
            self._messages.delete_by_transaction_id_async(
                transaction_id=_in_path(transaction_id), channel=channel, idempotency_key=transaction_id
            )
        )
        if answer.status == 404:
            return False
        self._successful(answer)
        return True

    async def workflow(self, identifier: str) -> Any:
        """A workflow's document as JSON; an empty one if the server does not return any, None if it does not exist."""
        answer = await self._ask(self._workflows.get_async(workflow_id=_in_path(identifier)))
        if not 200 <= answer.status < 300:
            # A server that is too old to ask answers 404 too.
            missing = answer.status == 404 and not _message(answer.content).startswith("Cannot GET")
            return None if missing else {}
        return answer.content

    async def _send(self, call: Callable[..., Awaitable[Any]], key: str) -> _Answer:
        """Send a request under its key. Where Novu has stored an error under the key, it is sent under the next one:
        `key-1`, `key-2` and so on. A repeat uses the same key as the attempt before, whose outcome may be unknown."""
        for _ in range(_MAX_KEYS):
            used = self._used.get(key, 0)
            # The event's transactionId still keeps Novu from delivering it twice.
            answer = self._limited(await self._ask(call(idempotency_key=f"{key}-{used}" if used else key)))
            if not answer.stale:
                return self._successful(answer)
            remember(self._used, key, used + 1)
        detail = "Novu repeats old errors under used idempotency keys"
        raise CallError(Retry(Reason.SERVER_ERROR, detail, self._unknown_wait))

    async def _ask(self, call: Awaitable[Any]) -> _Answer:
        try:
            async with asyncio.timeout(self._timeout):  # the SDK's own timeout restarts with every byte
                response = await call
        except models.NovuError as error:
            return _Answer(status=error.status_code, headers=error.headers, content=_json(error.body))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            detail = self.redact(f"cannot connect to {self._server}: {why_unreachable(error)}")
            raise CallError(Retry(Reason.CONNECTION, detail)) from None
        except (TimeoutError, httpx.TimeoutException):
            detail = f"no answer within {self._timeout:g} s"
            raise CallError(Retry(Reason.TIMEOUT, detail, self._unknown_wait)) from None
        except (httpx.HTTPError, httpx.StreamError, models.NoResponseError, OSError) as error:
            detail = self.redact(why_unreachable(error))
            raise CallError(Retry(Reason.CONNECTION, detail, self._unknown_wait)) from None
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            raise self._refused(error) from None
        headers = {name: values[0] for name, values in response.headers.items() if values}
        return _Answer(status=200, headers=headers, content=_plain(getattr(response, "result", None)))

    def _refused(self, error: Exception) -> CallError:
        return CallError(Rejected(Reason.REJECTED, self.redact(f"the SDK does not accept this event: {error}")))

    def _limited(self, answer: _Answer) -> _Answer:
        limit = answer.headers.get("ratelimit-limit", "")
        if limit.isascii() and limit.isdigit():
            self.trigger_limit = int(limit)
        return answer

    def _successful(self, answer: _Answer) -> _Answer:
        """The answer if it is 2xx. Raises CallError with what it means else."""
        if 200 <= answer.status < 300:
            return answer
        after = retry_after(answer.headers.get("retry-after"), self._now())
        if answer.status >= 500 or answer.status == 408:  # a gateway says this too, while Novu works on
            after = max(after or 0.0, self._unknown_wait)
        detail = self.redact(f"{answer.status} {_message(answer.content)}")
        result = classify(answer.status, detail, after, free=_WAITS)
        assert isinstance(result, Retry | Rejected | Paused)
        raise CallError(result, answer.status)


class _Silent:
    """Replaces the SDK's log, which shows every body; NOVU_DEBUG in the environment would turn it on."""

    def debug(self, msg: str, *args: object, **kwargs: object) -> None:
        """Log nothing."""


def _in_path(id_: str) -> str:
    """An id as a part of an address. The SDK quotes neither `#`, `?` nor `/`: `order-7#2` would cancel `order-7`."""
    return quote(id_, safe="")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _entries(content: Any, ids: Sequence[str]) -> list[Entry]:
    """The entry of each event of a bulk, in the order of their ids.

    All were accepted if the content is not a list or an empty one. In a list of another length only the entries that
    name an id count.
    """
    if not isinstance(content, list) or not content:
        return [_entry(None)] * len(ids)
    if len(content) == len(ids):
        return [_entry(item) for item in content]
    named = {item.get("transactionId"): _entry(item) for item in content if isinstance(item, dict)}
    unnamed = Entry(NO_ENTRY, f"Novu answered {len(content)} of {len(ids)} events, and not for this one")
    return [named.get(id_, unnamed) for id_ in ids]


def _entry(item: Any) -> Entry:
    if not isinstance(item, dict) or not isinstance(item.get("status"), str):
        return Entry(PROCESSED, "")  # a 2xx that cannot be read was accepted
    errors = item.get("error")
    return Entry(item["status"], "; ".join(map(str, errors)) if isinstance(errors, list) else str(errors or ""))


def _plain(result: Any) -> Any:
    """A result of the SDK as JSON."""
    if isinstance(result, list):
        return [_plain(item) for item in result]
    return result.model_dump(mode="json", by_alias=True) if isinstance(result, BaseModel) else result


def _message(content: Any) -> str:
    """The text of an error's body: its `message`, which may be a list, and its `errors`."""
    if not isinstance(content, dict):
        return str(content or "")
    found = content.get("message", "")
    parts = [str(part) for part in (found if isinstance(found, list) else [found])]
    if content.get("errors"):
        parts.append(json.dumps(content["errors"], default=str))
    return "; ".join(part for part in parts if part)

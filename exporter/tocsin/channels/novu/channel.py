"""The Novu channel: what to send, alone or in bulk, and what to take back."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tocsin.channels.base import Delivered, Message, Plan, Rejected, Request, Result, Retry
from tocsin.channels.novu.api import PROCESSED, Answer, Api, Entry
from tocsin.channels.novu.cancelling import Cancelling
from tocsin.channels.novu.events import Draft, Route
from tocsin.channels.novu.settings import Config, Options
from tocsin.errors import Reason
from tocsin.model import Kind

T = TypeVar("T")

MAX_BULK = 100
"""Events in one bulk request, and the rate tokens that one costs."""

MAX_BULK_BYTES = 4 * 1024 * 1024
"""Large events go in smaller bulks: Novu answers a request beyond 20 MB with 500."""

_CANCELLING = 2.0
"""Seconds of one call after which no further cancel is begun: triggers of the same call wait for its end."""

_REMEDIES = {
    "trigger_not_active": "activate the workflow in Novu",
    "no_workflow_steps_defined": "add a step to the workflow in Novu",
    "no_workflow_active_steps_defined": "activate a step of the workflow in Novu",
    "no_tenant_found": "create the tenant in Novu, or correct `tenant`",
}


@dataclass(frozen=True, slots=True)
class _Pending:
    message: Message
    draft: Draft


class Novu:
    """Triggers workflows: alone when one message is pending, in bulk when more have gathered."""

    def __init__(
        self,
        name: str,
        config: Config,
        routes: Mapping[str, Options],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._name = name
        self._routes = {alert: Route(alert, options, config.max_payload) for alert, options in routes.items()}
        self._otherwise = Route(name, config, config.max_payload)
        self._api = Api(config, now)
        self._lanes = asyncio.Semaphore(config.concurrency)
        self._cancelling = Cancelling(self._api, monotonic)
        cancels = any(
            route.options.on_resolve.startswith("cancel") for route in (*self._routes.values(), self._otherwise)
        )
        self.needs_previous_ids = frozenset({Kind.RESOLVED}) if cancels else frozenset()

    def __repr__(self) -> str:
        return f"Novu({self._name!r})"

    def batch_size(self, pending: int) -> int:
        limit = self._api.trigger_limit
        if limit is not None and (pending < MAX_BULK or limit < MAX_BULK):
            return min(pending, 1)  # a bulk of any length costs as much of the limit as 100 single triggers
        return min(pending, MAX_BULK)

    def plan(self, messages: Sequence[Message]) -> Plan:
        decided, pending, taking_back = self._sorted(messages)
        requests: list[Request] = [_Bulk(self, group) for group in _groups(pending)]
        requests += [_TakeBack(self, message) for message in taking_back]
        return Plan(requests, decided)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        results, pending, taking_back = self._sorted(messages)
        deadline = self.deadline()
        triggered, taken_back = await asyncio.gather(
            self._trigger(pending), asyncio.gather(*(self.take_back(message, deadline) for message in taking_back))
        )
        results |= triggered
        results |= {message.id: result for message, result in zip(taking_back, taken_back, strict=True)}
        return [results[message.id] for message in messages]

    def _sorted(self, messages: Sequence[Message]) -> tuple[dict[str, Result], list[_Pending], list[Message]]:
        """The results that are known without a request, what is to be triggered, and what takes messages back."""
        results: dict[str, Result] = {}
        pending: list[_Pending] = []
        taking_back: list[Message] = []
        # One id twice at the same time would be delivered twice.
        for id_, message in {message.id: message for message in messages}.items():
            route = self._routes.get(message.alert, self._otherwise)
            if message.kind is Kind.RESOLVED and route.options.on_resolve == "nothing":
                results[id_] = Delivered("nothing is sent on resolve", sent=False)
            elif message.kind is Kind.RESOLVED and route.options.on_resolve != "trigger":
                taking_back.append(message)
            else:
                draft = route.draft(message)
                if isinstance(draft, Rejected):
                    results[id_] = draft
                else:
                    pending.append(_Pending(message, draft))
        return results, pending, taking_back

    async def close(self) -> None:
        await self._api.close()

    async def verify(self) -> list[str]:
        """Problems found by asking Novu whether the key is good and the workflows are there, as sentences."""
        answer = await self._api.cancel("tocsin-check")
        if not isinstance(answer, Answer):
            return [f"Novu does not answer: {answer.detail}"]
        if not answer.ok:
            return [f"Novu does not take the api_key or the url: {self._api.said(answer)}"]
        names = {
            name
            for route in (*self._routes.values(), self._otherwise)
            for name in (route.options.workflow, route.options.resolved_workflow)
            if name is not None
        }
        return [problem for name in sorted(names) for problem in await self._problems(name)]

    async def _problems(self, workflow: str) -> list[str]:
        answer = await self._api.workflow(workflow)
        if not isinstance(answer, Answer):
            return [f"Novu does not answer about the workflow {workflow!r}: {answer.detail}"]
        return self._api.workflow_problems(workflow, answer)

    async def _trigger(self, pending: Sequence[_Pending]) -> dict[str, Result]:
        results: dict[str, Result] = {}
        for group in _groups(pending):
            results |= await self.trigger(group)
            if len(group) > 1 and all(isinstance(results[one.message.id], Rejected) for one in group):
                # None of them was accepted. One by one, so that only what is wrong with the bulk is rejected.
                alone = await asyncio.gather(*(self._in_lane(self.trigger([one])) for one in group))
                results |= {id_: result for one in alone for id_, result in one.items()}
        return results

    async def trigger(self, group: Sequence[_Pending]) -> dict[str, Result]:
        """Send one request: alone, or a bulk, whose idempotency key is made of those of its messages in order."""
        results = await (self._single(group[0]) if len(group) == 1 else self._bulk(group))
        self._note(group, results)
        return results

    def _note(self, group: Sequence[_Pending], results: Mapping[str, Result]) -> None:
        for one in group:
            if isinstance(results[one.message.id], Delivered):
                self._cancelling.triggered(one.message.id, single_recipient=one.draft.single_recipient)

    def deadline(self) -> float:
        """When a call that begins now begins no further cancel."""
        return asyncio.get_running_loop().time() + _CANCELLING

    async def take_back(self, message: Message, deadline: float) -> Result:
        """Take back what an episode has sent; see `Cancelling.take_back`."""
        options = self._routes.get(message.alert, self._otherwise).options
        return await self._in_lane(self._cancelling.take_back(message, options, deadline))

    async def _single(self, one: _Pending) -> dict[str, Result]:
        answer = await self._api.trigger(one.draft.event, one.message.key)
        if not isinstance(answer, Answer):
            return {one.message.id: answer}
        return {one.message.id: self._verdict(answer.entry()) if answer.ok else self._api.failure(answer)}

    async def _bulk(self, group: Sequence[_Pending]) -> dict[str, Result]:
        ids = [one.message.id for one in group]
        events = [one.draft.event for one in group]
        key = hashlib.blake2b("\n".join(one.message.key for one in group).encode(), digest_size=16).hexdigest()
        answer = await self._api.trigger_bulk(events, key)
        if not isinstance(answer, Answer):
            return dict.fromkeys(ids, answer)
        if answer.ok:
            entries = answer.entries(ids)
            return {id_: self._verdict(entry) for id_, entry in zip(ids, entries, strict=True)}
        result = self._api.failure(answer)
        limit = self._api.trigger_limit
        if isinstance(result, Retry) and answer.status == 429 and limit is not None and limit < MAX_BULK:
            # The rate limit lets no bulk through, ever.
            result = Rejected(result.reason, result.detail)
        return dict.fromkeys(ids, result)

    def _verdict(self, entry: Entry) -> Result:
        status, errors = entry
        if status == PROCESSED:
            return Delivered()
        said = "; ".join(part for part in (f"{status}: {errors}" if errors else status, _REMEDIES.get(status)) if part)
        return Rejected(Reason.NOT_PROCESSED, self._api.redact(said))

    async def _in_lane(self, work: Awaitable[T]) -> T:
        async with self._lanes:
            return await work


@dataclass(frozen=True, slots=True)
class _Bulk:
    """One trigger, or a bulk of them."""

    channel: Novu
    group: Sequence[_Pending]

    @property
    def messages(self) -> Sequence[Message]:
        return [one.message for one in self.group]

    async def send(self) -> Sequence[Result]:
        results = await self.channel.trigger(self.group)
        return [results[one.message.id] for one in self.group]

    def split(self) -> Sequence[Sequence[Message]]:
        # Each alone costs one of the rate limit, and a bulk of any length 100.
        return [[one.message] for one in self.group]


@dataclass(frozen=True, slots=True)
class _TakeBack:
    """The requests that take back what one episode has sent."""

    channel: Novu
    message: Message

    @property
    def messages(self) -> Sequence[Message]:
        return [self.message]

    async def send(self) -> Sequence[Result]:
        return [await self.channel.take_back(self.message, self.channel.deadline())]

    def split(self) -> Sequence[Sequence[Message]]:
        return [[self.message]]


def _groups(pending: Sequence[_Pending]) -> Iterator[list[_Pending]]:
    """Bulks of at most 100 events and `MAX_BULK_BYTES`, in the order of ids, so that the same set makes the same
    bytes."""
    group: list[_Pending] = []
    size = 0
    for one in sorted(pending, key=lambda one: one.message.id):
        if group and (len(group) == MAX_BULK or size + one.draft.size > MAX_BULK_BYTES):
            yield group
            group, size = [], 0
        group.append(one)
        size += one.draft.size
    if group:
        yield group

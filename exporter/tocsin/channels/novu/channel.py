"""The Novu channel: what to trigger, alone or in bulk, and what to cancel."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tocsin.channels.base import Channel, Delivered, Message, Plan, Rejected, Request, Result
from tocsin.channels.batching import send_planned
from tocsin.channels.novu import workflows
from tocsin.channels.novu.api import PROCESSED, Api, CallError, Entry
from tocsin.channels.novu.cancelling import Cancelling
from tocsin.channels.novu.events import Draft, Route
from tocsin.channels.novu.settings import Config, Options
from tocsin.errors import Reason
from tocsin.model import Kind

MAX_BULK = 100
"""Events in one bulk request, and the rate tokens that one costs."""

MAX_BULK_BYTES = 4 * 1024 * 1024
"""Large events go in smaller bulks: Novu answers a request beyond 20 MB with 500."""

_FIXES = {
    "trigger_not_active": "activate the workflow in Novu",
    "no_workflow_steps_defined": "add a step to the workflow in Novu",
    "no_workflow_active_steps_defined": "activate a step of the workflow in Novu",
    "no_tenant_found": "create the tenant in Novu, or correct `tenant`",
}


class Novu(Channel):
    """Triggers workflows: alone when one message is pending, else in bulk."""

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
        self._default = Route(name, config, config.max_payload)
        self._api = Api(config, now)
        self._cancelling = Cancelling(self._api, monotonic)
        cancels = any(route.options.cancels for route in (*self._routes.values(), self._default))
        self.needs_previous_ids = frozenset({Kind.RESOLVED}) if cancels else frozenset()

    def __repr__(self) -> str:
        return f"Novu({self._name!r})"

    def batch_size(self, pending: int) -> int:
        limit = self._api.trigger_limit
        if limit is not None and (pending < MAX_BULK or limit < MAX_BULK):
            return min(pending, 1)  # a bulk of any length costs as much of the limit as 100 single triggers
        return min(pending, MAX_BULK)

    def plan(self, messages: Sequence[Message]) -> Plan:
        decided: dict[str, Result] = {}
        drafts: list[Draft] = []
        cancels: list[Request] = []
        # Novu delivers one id twice if it comes twice at the same time.
        for id_, message in {message.id: message for message in messages}.items():
            route = self._routes.get(message.alert, self._default)
            if message.kind is Kind.RESOLVED and route.options.on_resolve == "nothing":
                decided[id_] = Delivered("nothing is sent on resolve", sent=False)
            elif message.kind is Kind.RESOLVED and route.options.cancels:
                cancels.append(_Cancel(self._cancelling, message, route.options))
            elif isinstance(draft := route.draft(message), Rejected):
                decided[id_] = draft
            else:
                drafts.append(draft)
        return Plan([*(_Trigger(self, group) for group in _groups(drafts)), *cancels], decided)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await send_planned(self, messages)

    async def close(self) -> None:
        await self._api.close()

    async def verify(self) -> list[str]:
        """Ask Novu whether the key is valid and the workflows exist; a sentence for each problem."""
        routes = (*self._routes.values(), self._default)
        names = {name for route in routes for name in (route.options.workflow, route.options.resolved_workflow) if name}
        try:
            await self._api.cancel("tocsin-check")
            documents = {name: await self._api.workflow(name) for name in sorted(names)}
        except CallError as error:
            if error.status:
                return [f"Novu does not accept the api_key or the url: {error.result.detail}"]
            return [f"Novu does not answer: {error.result.detail}"]
        found = (workflows.problems(name, document) for name, document in documents.items())
        return [self._api.redact(problem) for problems in found for problem in problems]

    async def trigger(self, group: Sequence[Draft]) -> Sequence[Result]:
        """Send one request: a single trigger, or a bulk with a key made of those of its messages in order."""
        try:
            if len(group) == 1:
                entries = [await self._api.trigger(group[0].event, group[0].message.key)]
            else:
                keys = "\n".join(draft.message.key for draft in group)
                key = hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()
                entries = await self._api.trigger_bulk([draft.event for draft in group], key)
        except CallError as error:
            return [self._failure(error, len(group))] * len(group)
        results = [self._result(entry) for entry in entries]
        for draft, result in zip(group, results, strict=True):
            if isinstance(result, Delivered):
                self._cancelling.triggered(draft.message.id, single_recipient=draft.single_recipient)
        return results

    def _failure(self, error: CallError, count: int) -> Result:
        result, limit = error.result, self._api.trigger_limit
        if count > 1 and error.status == 429 and limit is not None and limit < MAX_BULK:
            # No bulk ever fits into the rate limit: the dispatcher splits what is rejected.
            return Rejected(result.reason, result.detail)
        return result

    def _result(self, entry: Entry) -> Result:
        if entry.status == PROCESSED:
            return Delivered()
        status = f"{entry.status}: {entry.errors}" if entry.errors else entry.status
        detail = "; ".join(part for part in (status, _FIXES.get(entry.status)) if part)
        return Rejected(Reason.NOT_PROCESSED, self._api.redact(detail))


@dataclass(frozen=True, slots=True)
class _Trigger:
    """One trigger, or a bulk of them."""

    channel: Novu
    group: Sequence[Draft]

    @property
    def messages(self) -> Sequence[Message]:
        return [draft.message for draft in self.group]

    async def send(self) -> Sequence[Result]:
        return await self.channel.trigger(self.group)

    def split(self) -> Sequence[Sequence[Message]]:
        # Each alone costs one token of the rate limit, a bulk of any length 100.
        return [[message] for message in self.messages]


@dataclass(frozen=True, slots=True)
class _Cancel:
    """The requests that cancel what one episode has triggered."""

    cancelling: Cancelling
    message: Message
    options: Options

    @property
    def messages(self) -> Sequence[Message]:
        return [self.message]

    async def send(self) -> Sequence[Result]:
        try:
            return [await self.cancelling.cancel(self.message, self.options)]
        except CallError as error:
            return [error.result]

    def split(self) -> Sequence[Sequence[Message]]:
        return [[self.message]]


def _groups(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    """Bulks of at most `MAX_BULK` events and `MAX_BULK_BYTES`, ordered by id, so that the same set makes the same
    bytes."""
    group: list[Draft] = []
    size = 0
    for draft in sorted(drafts, key=lambda draft: draft.message.id):
        if group and (len(group) == MAX_BULK or size + draft.size > MAX_BULK_BYTES):
            yield group
            group, size = [], 0
        group.append(draft)
        size += draft.size
    if group:
        yield group

"""The Novu channel: what to trigger, alone or in bulk, and what to cancel."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tocsin.channels.base import BatchingChannel, Delivered, Message, Plan, Rejected, Request, Result
from tocsin.channels.batching import batched
from tocsin.channels.novu.api import PROCESSED, Api, CallError, Entry
from tocsin.channels.novu.cancelling import Cancelling
from tocsin.channels.novu.events import Draft, Route, shown
from tocsin.channels.novu.settings import Config, Options
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.redaction import masked

MAX_BULK = 100
"""Events in one bulk request, and the rate tokens that one costs."""

MAX_BULK_BYTES = 4 * 1024 * 1024
"""Large events go in smaller bulks: Novu answers a request beyond 20 MB with 500."""

_DELIVERS_NOTHING = frozenset({"delay", "digest", "throttle"})
"""Types of steps that only decide when the next one runs."""

_NOTHING = "nothing is sent on resolve"

_NOT_CONNECTED = "INBOX_NOT_CONNECTED"
"""No inbox was opened yet. Messages are kept until one is."""

_FIXES = {
    "trigger_not_active": "activate the workflow in Novu",
    "no_workflow_steps_defined": "add a step to the workflow in Novu",
    "no_workflow_active_steps_defined": "activate a step of the workflow in Novu",
    "no_tenant_found": "create the tenant in Novu, or correct `tenant`",
}


class Novu(BatchingChannel):
    """Triggers workflows: alone when one message is pending, else in bulk."""

    def __init__(
        self,
        name: str,
        config: Config,
        routes: Mapping[str, Options],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._routes = {alert: Route(alert, options, config.max_payload) for alert, options in routes.items()}
        self._default = Route(name, config, config.max_payload)
        self._api = Api(config, now)
        self._cancelling = Cancelling(self._api, monotonic)
        cancels = any(route.options.cancels for route in (*self._routes.values(), self._default))
        self.needs_previous_ids = frozenset({Kind.RESOLVED}) if cancels else frozenset()

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
                decided[id_] = Delivered(_NOTHING, sent=False)
            elif message.kind is Kind.RESOLVED and route.options.cancels:
                cancel = partial(self._cancel, message, route.options)
                cancels.append(Request(messages=[message], send=cancel, parts=[[message]]))
            elif isinstance(draft := route.draft(message), Rejected):
                decided[id_] = draft
            else:
                drafts.append(draft)
        # Ordered by id, so that the same set makes the same bytes.
        drafts.sort(key=lambda draft: draft.message.id)
        bulks = batched(drafts, lambda draft: draft.size, most=MAX_BULK, most_bytes=MAX_BULK_BYTES)
        return Plan([*map(self._request, bulks), *cancels], decided)

    async def close(self) -> None:
        await self._api.close()

    def preview(self, message: Message) -> Mapping[str, Any] | Rejected:
        route = self._routes.get(message.alert, self._default)
        options = route.options
        if message.kind is Kind.RESOLVED and options.on_resolve == "nothing":
            return {"nothing": _NOTHING}
        if message.kind is Kind.RESOLVED and options.cancels:
            return {"cancel": [*message.previous_ids], "delete_in_app": options.on_resolve == "cancel_and_delete"}
        draft = route.draft(message)
        return draft if isinstance(draft, Rejected) else masked(shown(draft.event), self._api.mask)

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
        found = (_problems(name, document) for name, document in documents.items())
        return [self._api.redact(problem) for problems in found for problem in problems]

    def _request(self, group: Sequence[Draft]) -> Request:
        messages = [draft.message for draft in group]
        # Each alone costs one token of the rate limit, a bulk of any length 100.
        return Request(messages=messages, send=partial(self._trigger, group), parts=[[one] for one in messages])

    async def _trigger(self, group: Sequence[Draft]) -> Sequence[Result]:
        """Send one request: a single trigger, or a bulk with a key made of those of its messages in order."""
        key = group[0].message.key
        if len(group) > 1:
            keys = "\n".join(draft.message.key for draft in group)
            key = hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()
        try:
            entries = await self._api.trigger([draft.event for draft in group], key)
        except CallError as error:
            return [self._failure(error, len(group))] * len(group)
        results = [self._result(entry) for entry in entries]
        for draft, result in zip(group, results, strict=True):
            if isinstance(result, Delivered):
                self._cancelling.triggered(draft.message.id, single_recipient=draft.single_recipient)
        return results

    async def _cancel(self, message: Message, options: Options) -> Sequence[Result]:
        try:
            return [await self._cancelling.cancel(message, options)]
        except CallError as error:
            return [error.result]

    def _failure(self, error: CallError, count: int) -> Result:
        result, limit = error.result, self._api.trigger_limit
        if count > 1 and error.status == 429 and limit is not None and limit < MAX_BULK:
            # No bulk ever fits into the rate limit: the dispatcher splits what is rejected.
            return Rejected(result.reason, result.detail)
        return result

    def _result(self, entry: Entry) -> Result:
        if entry.status == PROCESSED:
            return Delivered(answer=PROCESSED)
        status = f"{entry.status}: {entry.errors}" if entry.errors else entry.status
        detail = "; ".join(part for part in (status, _FIXES.get(entry.status)) if part)
        return Rejected(Reason.NOT_PROCESSED, self._api.redact(detail))


def _problems(identifier: str, document: Any) -> list[str]:
    """What is wrong with a workflow, as sentences. `document`: its JSON; None if it does not exist.

    Novu accepts a trigger of a workflow that cannot deliver, and nothing arrives (seen on a live server). A field that
    is missing or of another type is not a problem: servers differ.
    """
    if document is None:
        return [f"Novu has no workflow {identifier!r}"]
    if not isinstance(document, dict):
        return []
    name = f"the workflow {identifier!r}"
    if document.get("active") is False or document.get("status") == "INACTIVE":
        return [f"{name} is not active in Novu"]
    steps = document.get("steps")
    if not isinstance(steps, list):
        return []
    steps = [step for step in steps if isinstance(step, dict)]
    if not steps:
        return [f"{name} has no steps, so Novu would accept notifications and deliver none; add a step in Novu"]
    types = [step.get("type") for step in steps]
    if all(type_ in _DELIVERS_NOTHING for type_ in types):
        kinds = " and ".join(sorted({str(type_) for type_ in types}))
        return [f"{name} has only {kinds} steps, so Novu would deliver nothing; add a step that delivers in Novu"]
    found = [
        f"step {step.get('name') or step.get('stepId')!r} of {name}: {issue}"
        for step in steps
        for issue in _issues(step.get("issues"))
    ]
    if not found and document.get("status") == "ERROR":
        found = [f"{name} has the status ERROR in Novu; open it there to see why"]
    return found


def _issues(issues: Any) -> Iterator[str]:
    """The issues of a step: `{"integration": {"email": [{"issueType": ..., "message": ...}]}, "controls": ...}`."""
    for group in issues.values() if isinstance(issues, dict) else ():
        for listed in group.values() if isinstance(group, dict) else ():
            for issue in listed if isinstance(listed, list) else ():
                if isinstance(issue, dict) and issue.get("issueType") != _NOT_CONNECTED:
                    yield ": ".join(str(issue[key]) for key in ("issueType", "message") if issue.get(key))

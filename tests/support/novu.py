"""A Novu for tests: the inbox in this process, on a free port, with faults and conditions to wait for."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from support.messages import message
from tocsin.channels import novu
from tocsin.channels.base import Message
from tocsin_demo.inbox.app import serving
from tocsin_demo.inbox.faults import Fault, Orders
from tocsin_demo.inbox.inbox import Inbox, Logged, Settings
from tocsin_demo.inbox.model import Message as Delivered
from tocsin_demo.inbox.model import Notification, Step

API_KEY = "test-key"
TRIGGER = "/v1/events/trigger"
BULK = "/v1/events/trigger/bulk"
WORKFLOW = "inapp-alert"
DELAYED_WORKFLOW = "delayed-alert"
DIGEST_WORKFLOW = "digest-alert"
INACTIVE_WORKFLOW = "inactive-one"
REQUIRED_WORKFLOW = "required-var"
"""Has the required variable `reqd`."""
LONG_S = 20.0
_IN_APP = Step(type="in_app")


class Clock:
    """A clock that the test sets. What is due is done at the next request, or when the test asks."""

    def __init__(self, now: float = 1_795_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeNovu:
    """A running inbox. `url`: the `server_url` of the SDK; `api_key`: the only accepted key."""

    inbox: Inbox
    url: str
    api_key: str = API_KEY

    def fault(self, kind: str, **details: Any) -> None:
        """Add a fault after the active ones, for example `fault("status", status=429, retry_after=1, times=2)`."""
        self.inbox.faults.add(Fault.model_validate({"kind": kind, **details}))

    def heal(self) -> None:
        """Clear all faults, and start the worker."""
        self.inbox.order(Orders(faults=(), worker="up"))

    def stop_worker(self) -> None:
        """Accept events and deliver nothing until `heal`."""
        self.inbox.order(Orders(worker="down"))

    def add_workflow(self, workflow_id: str, *steps: Step, active: bool = True, required: Sequence[str] = ()) -> None:
        """Create a workflow; by default it has one in-app step."""
        self.inbox.engine.add_workflow(
            workflow_id, now=self.inbox.clock(), steps=steps or (_IN_APP,), active=active, required=required
        )

    def notifications(self, transaction_id: str | None = None) -> Sequence[Notification]:
        """The notifications in order: those of one transaction id, or all."""
        worker = self.inbox.engine.worker
        worker.advance(self.inbox.clock())
        return (
            tuple(worker.notifications.values()) if transaction_id is None else worker.notifications_of(transaction_id)
        )

    def messages(self, transaction_id: str | None = None) -> list[Delivered]:
        """The messages to people, including deleted ones."""
        return [message for each in self.notifications(transaction_id) for message in each.messages]

    def requests(self, path: str = "", method: str = "") -> list[Logged]:
        """The requests so far whose path starts like this."""
        return [each for each in self.inbox.requests if each.path.startswith(path) and method in {"", each.method}]

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Wait for a condition. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout):
            while not condition():
                await self.inbox.next_change()

    async def until_delivered(self, count: int, timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Wait until people got that many messages in all. Raises `TimeoutError`."""
        await self.until(lambda: self.inbox.engine.counters.messages >= count, timeout)


@contextlib.asynccontextmanager
async def fake_novu(
    settings: Settings | None = None,
    *,
    clock: Callable[[], float] = time.time,
    delay_s: float = LONG_S,
    port: int = 0,
) -> AsyncIterator[FakeNovu]:
    """Start a Novu with the workflows of the recorded one, and two subscribers.

    `delay_s`: how long the delayed and the digest workflow wait. `port`: to come back at the same address.
    """
    inbox = Inbox(settings or Settings(api_key=API_KEY), clock=clock)
    now, engine = clock(), inbox.engine
    engine.add_workflow(WORKFLOW, now=now, steps=(_IN_APP,))
    engine.add_workflow(DELAYED_WORKFLOW, now=now, steps=(Step(type="delay", seconds=delay_s), _IN_APP))
    engine.add_workflow(DIGEST_WORKFLOW, now=now, steps=(Step(type="digest", seconds=delay_s), _IN_APP))
    engine.add_workflow(INACTIVE_WORKFLOW, now=now, steps=(_IN_APP,), active=False)
    engine.add_workflow(REQUIRED_WORKFLOW, now=now, steps=(_IN_APP,), required=("reqd",))
    engine.worker.add_subscriber("sub-1", {"firstName": "Ann"})
    engine.worker.add_subscriber("sub-2", {})
    async with serving(inbox, port=port) as url:
        yield FakeNovu(inbox=inbox, url=url, api_key=inbox.settings.api_key or API_KEY)


def novu_channel(
    url: str, *, now: float = 0.0, monotonic: Callable[[], float] = time.monotonic, **settings: Any
) -> Any:
    """A channel to a Novu."""
    fields = {"type": "novu", "url": url, "api_key": API_KEY, "workflow": WORKFLOW, "recipients": ["sub-1"], **settings}
    config = novu.Config.model_validate(fields)
    options = {name: value for name, value in fields.items() if name in novu.Options.model_fields}
    return novu.build(
        "novu", config, {"late": novu.Options.model_validate(options)}, now=lambda: now, monotonic=monotonic
    )


def several(count: int, **rest: Any) -> list[Message]:
    """Messages about so many rows."""
    return [message(key=str(number), **rest) for number in range(count)]


def bodies(server: FakeNovu, path: str = TRIGGER) -> list[Any]:
    """The bodies of requests to a path, in order."""
    return [json.loads(each.body) for each in server.requests() if each.path == path]


WINDOW_S = 5
BURST = 1.1
BULK_COST = 100
"""At any length. A cancel costs as much as a trigger."""
RATES: Mapping[str, int] = {"trigger": 60, "configuration": 20, "global": 30}
"""Requests a second by category."""


class RateLimits:
    """The buckets of one organisation; a `Limiter` of the inbox."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def __call__(self, category: str, bulk: bool, now: float) -> tuple[bool, Mapping[str, str]]:
        """Whether a request may pass, and the headers that say so."""
        rate = RATES[category]
        limit = rate * WINDOW_S
        burst = round(limit * BURST)
        # As on the live server, a used bucket fills up to one token less than a new one has.
        used, at = self._buckets.get(category, (float(burst), now))
        tokens = used if category not in self._buckets else min(burst - 1, used + (now - at) * rate)
        cost = BULK_COST if bulk else 1
        kind = "bulk" if bulk else "single"
        policy = (
            f'{limit};w={WINDOW_S};burst={burst};comment="token bucket";category="{category}"'
            f';cost="{kind}";serviceLevel="free"'
        )
        headers = {"ratelimit-limit": str(limit), "ratelimit-policy": policy}
        allowed = tokens >= cost
        self._buckets[category] = tokens - cost * allowed, now
        if allowed:
            rest = {"ratelimit-remaining": str(int(tokens - cost)), "ratelimit-reset": "1" if cost > 1 else "0"}
        else:
            wait = str(max(1, math.ceil((cost - tokens) / rate)))
            rest = {"ratelimit-remaining": "0", "ratelimit-reset": wait, "retry-after": wait}
        return allowed, headers | rest

"""The inbox as one object: the engine, what a request passes before it, the log of requests, and changes."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tocsin_demo.inbox.answers import Answer, Release
from tocsin_demo.inbox.engine import RECIPIENT_DELAY_S, Engine
from tocsin_demo.inbox.faults import Faults, Orders
from tocsin_demo.inbox.model import CHANNELS

LOGGED_BODY = 256 * 1024

Limiter: TypeAlias = Callable[[str, bool, float], tuple[bool, Mapping[str, str]]]
"""Given the category of a request, whether it is a bulk, and the time: whether it may pass, and headers that say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the inbox behaves."""

    api_key: str | None = None
    """The only accepted key; None accepts any."""
    idempotency: bool = True
    """Whether `Idempotency-Key` has an effect. By default it has none in a self-hosted Novu."""
    auto_workflows: bool = False
    """Whether a workflow is created when it is first named."""
    recipient_delay: float = RECIPIENT_DELAY_S
    """Seconds from the jobs of one recipient to those of the next."""
    release: Release = "2.0.0"
    """The Novu whose answers are given."""
    providers: frozenset[str] = frozenset(CHANNELS)
    """The channels that have a provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A received request. `status`: None if no answer was sent; `body`: empty if it was very long."""

    at: float
    method: str
    path: str
    status: int | None
    idempotency_key: str
    replayed: bool
    fault: str
    body: bytes


class Inbox:
    """Everything but HTTP. `clock`: seconds since the epoch."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        self.engine = Engine(
            recipient_delay=settings.recipient_delay,
            auto_workflows=settings.auto_workflows,
            release=settings.release,
        )
        self.keys: dict[str, tuple[str, Answer | None]] = {}
        """By `Idempotency-Key`: the digest of the body, and the answer; None while the request runs."""
        self.limiter: Limiter | None = None
        self.faults = Faults()
        self.requests: deque[Logged] = deque(maxlen=5000)
        self.closing = False
        self.version = 0
        self._change = asyncio.Event()

    def order(self, orders: Orders) -> None:
        """Replace the faults, and stop or start the worker."""
        if orders.faults is not None:
            self.faults.replace(orders.faults)
        if orders.worker == "down":
            self.engine.worker.stop(self.clock())
        elif orders.worker == "up":
            self.engine.worker.start(self.clock())
        self.changed()

    def log(self, request: Logged) -> None:
        """Log a request and its answer."""
        self.requests.append(request)
        self.changed()

    def changed(self) -> None:
        """Wake everyone who waits for a change. `version` counts the changes."""
        self.version += 1
        self._change.set()
        self._change = asyncio.Event()

    def close(self) -> None:
        """End all waits."""
        self.closing = True
        self.changed()

    async def next_change(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait for a change; false if none came in `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._change.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Do what is due, for ever: the worker's jobs, the ends of delays."""
        while True:
            due = self.engine.worker.next_due()
            if due is None:
                await self.next_change()
            elif (wait := due - self.clock()) > 0:
                await self.next_change(wait)
            else:
                self.engine.worker.advance(self.clock())
                self.changed()

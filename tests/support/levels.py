"""The loop of a level output between firings and receivers that a test controls, on a clock that a test advances."""

import asyncio
from collections.abc import Sequence

from support.clock import LoopClock
from support.messages import VIEW, transition
from tocsin.backoff import Backoff
from tocsin.channels.base import ActiveAlert, Delivered, Level, Result, Retry
from tocsin.dispatch.level import ActiveAlerts, LevelLoop
from tocsin.dispatch.receiver import LevelPolicy
from tocsin.envelope import Envelope, build
from tocsin.errors import Reason
from tocsin.exposition import Metrics
from tocsin.model import Transition

POLICY = LevelPolicy(resend=60.0, backoff=Backoff(initial=1.0, maximum=30.0), limit=1000)
OK = Delivered()
DOWN = Retry(Reason.CONNECTION, "refused")


class FakeLevel(Level):
    """Receivers that record what they are sent. `answers`: the answer of each to everything; `known_of`: the alerts
    that each knows."""

    def __init__(self, *receivers: str) -> None:
        self.receivers: Sequence[str] = receivers
        self.answers: dict[str, Result | BaseException] = dict.fromkeys(receivers, OK)
        self.hanging: set[str] = set()
        self.known_of: dict[str, frozenset[str] | BaseException | None] = {}
        self.rendered: list[str] = []
        self.pushes: list[tuple[str, Sequence[ActiveAlert]]] = []
        self.closed = 0

    def active(self, envelope: Envelope, now: float) -> ActiveAlert:
        key = str(envelope["row"]["order_id"])
        self.rendered.append(key)
        if key == "666":
            raise ValueError("a defect")
        return ActiveAlert(identity=key, content=envelope["row"]["customer"].encode(), started_at=now)

    async def push(self, receiver: str, alerts: Sequence[ActiveAlert], now: float) -> Sequence[Result]:
        self.pushes.append((receiver, alerts))
        if receiver in self.hanging:
            await asyncio.Event().wait()
        answer = self.answers[receiver]
        if isinstance(answer, BaseException):
            raise answer
        return [answer] * len(alerts)

    async def known(self, receiver: str) -> frozenset[str] | None:
        known = self.known_of.get(receiver)
        if isinstance(known, BaseException):
            raise known
        return known

    async def close(self) -> None:
        self.closed += 1

    def sent(self, receiver: str) -> list[list[str]]:
        """What a receiver was sent, push by push; ends with a minus."""
        return [
            [("" if one.ended_at is None else "-") + one.identity for one in alerts]
            for name, alerts in self.pushes
            if name == receiver
        ]


class LevelHarness:
    """A loop and its surroundings. `firing`: what fires, by alert; None: not known."""

    def __init__(self, *receivers: str) -> None:
        self.level = FakeLevel(*receivers)
        self.clock = LoopClock(asyncio.get_running_loop())
        self.metrics = Metrics("0")
        self.active = ActiveAlerts()
        self.firing: dict[str, Sequence[Transition] | None] = {"late": []}
        self.start()

    def start(self) -> None:
        """Run a loop: the first one, or one after another."""
        self.loop = LevelLoop(
            "am",
            self.level,
            POLICY,
            current=lambda: dict(self.firing),
            shape=lambda one: None if one.row[1] == "skip" else build(one, "0" * 32, VIEW),
            metrics=self.metrics.channel("am"),
            active=self.active,
            clock=self.clock,
            monotonic=asyncio.get_running_loop().time,
            chance=lambda: 0.999,
        )
        self.task = asyncio.create_task(self.loop.run())

    async def fires(self, *keys: str, alert: str = "late", wait: float = 0.3) -> None:
        """Set what fires; `wait`: until the change was sent."""
        self.firing[alert] = [transition(key=key, alert=alert) for key in keys]
        self.loop.changed(alert)
        await self.advance(wait)

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and wait until nothing is left to do."""
        await self.quiet()
        self.clock.advance(seconds)
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until nothing is left to do without more time."""
        for _ in range(20):
            await asyncio.sleep(0)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"channel": "am", **labels})

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

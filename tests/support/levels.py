"""A level output's loop between firings and receivers that a test makes up, on a clock that moves when told to."""

import asyncio
from collections.abc import Sequence

from support.clock import LoopClock
from support.messages import VIEW, transition
from tocsin.backoff import Backoff
from tocsin.channels.base import Delivered, Result, Retry, Standing
from tocsin.dispatch.level import LevelLoop
from tocsin.dispatch.policy import LevelPolicy
from tocsin.envelope import Envelope, build
from tocsin.errors import Reason
from tocsin.exposition import Metrics
from tocsin.model import Transition

POLICY = LevelPolicy(resend=60.0, backoff=Backoff(initial=1.0, maximum=30.0), limit=1000)
OK = Delivered()
DOWN = Retry(Reason.CONNECTION, "refused")
DAY = 86400.0


class FakeLevel:
    """Receivers that record what they are told. `answers`: what each says to everything."""

    def __init__(self, *receivers: str) -> None:
        self.receivers: Sequence[str] = receivers
        self.answers: dict[str, Result | BaseException] = dict.fromkeys(receivers, OK)
        self.gates = {receiver: asyncio.Event() for receiver in receivers}
        for gate in self.gates.values():
            gate.set()
        self.pushes: list[tuple[str, list[Standing]]] = []
        self.closed = 0

    def standing(self, envelope: Envelope, now: float) -> Standing:
        key = str(envelope["row"]["order_id"])
        if key == "666":
            raise ValueError("a defect")
        return Standing(identity=key, content=envelope["row"]["customer"], started_at=now)

    async def push(self, receiver: str, standings: Sequence[Standing], now: float) -> Sequence[Result]:
        self.pushes.append((receiver, list(standings)))
        await self.gates[receiver].wait()
        answer = self.answers[receiver]
        if isinstance(answer, BaseException):
            raise answer
        return [answer] * len(standings)

    async def close(self) -> None:
        self.closed += 1

    def told(self, receiver: str) -> list[list[str]]:
        """What was pushed to a receiver, push by push; what has ended with a minus."""
        return [
            [("" if one.ended_at is None else "-") + one.identity for one in standings]
            for name, standings in self.pushes
            if name == receiver
        ]


class Stage:
    """A loop that runs on a clock that moves when told to."""

    def __init__(self, level: FakeLevel) -> None:
        self.level = level
        self.clock = LoopClock(asyncio.get_running_loop())
        self.metrics = Metrics("0")
        self.firing: dict[str, Sequence[Transition] | None] = {"late": []}
        self.loop = self.start()

    def start(self, predecessor: LevelLoop | None = None) -> LevelLoop:
        """Run a loop, the first one or one after another."""
        self.loop = LevelLoop(
            "am",
            self.level,
            POLICY,
            current=lambda: dict(self.firing),
            shape=lambda one: None if one.row[1] == "skip" else build(one, "0" * 32, VIEW),
            metrics=self.metrics.channel("am"),
            predecessor=predecessor,
            clock=self.clock,
            monotonic=asyncio.get_running_loop().time,
            chance=lambda: 0.999,
        )
        self.task = asyncio.create_task(self.loop.run())
        return self.loop

    def fires(self, *keys: str, alert: str = "late") -> None:
        """From now on these fire, and the loop is told so."""
        self.firing[alert] = [transition(key=key, alert=alert) for key in keys]
        self.loop.changed(alert)

    async def quiet(self) -> None:
        """Let everything happen that can without time."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        await self.quiet()
        self.clock.advance(seconds)
        await self.quiet()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"channel": "am", **labels})

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

"""The loop of one level output: looks at what fires now, and tells every receiver what it does not know yet."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from tocsin.channels.base import Level, Standing
from tocsin.dispatch.health import Condition
from tocsin.dispatch.policy import LevelPolicy
from tocsin.dispatch.receiver import Receiver
from tocsin.dispatch.standing import Picture
from tocsin.dispatch.supervision import Supervisor
from tocsin.envelope import Envelope
from tocsin.exposition import ChannelMetrics
from tocsin.model import Transition
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_CLOSING = 5.0
"""Seconds that an output is given to let go of its connections."""

_MANY = 200
"""Firings from which they are put into shape in a thread."""


Current = Callable[[], Mapping[str, Sequence[Transition] | None]]
"""What fires now, for each alert that notifies the output, as the transition with which it began to fire (`at` is
`started_at`). None: nothing is known of the alert now. Answers from memory."""

Shape = Callable[[Transition], Envelope | None]
"""The envelope of a firing; None where the output is not to be told of it. May be called in a thread."""

_Shaped = dict[str, dict[str, tuple[Transition, Standing | None]]]
"""Firings in shape, by alert and fingerprint, with what they were made of. None: the output is not told of it."""


class LevelLoop:
    """Keeps the receivers of one level output up to date until it is cancelled.

    `predecessor`: the loop, now over, that ran the output under the configuration before. What it told of and what no
    longer fires is told as ended. `clock`: the wall clock, in seconds, for what receivers and people are told;
    `monotonic`: a clock that does not jump, in seconds, for all waiting.
    """

    def __init__(
        self,
        name: str,
        level: Level,
        policy: LevelPolicy,
        *,
        current: Current,
        shape: Shape,
        metrics: ChannelMetrics,
        predecessor: "LevelLoop | None" = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._supervisor = Supervisor(name, metrics, policy.backoff, chance)
        self._level = level
        self._policy = policy
        self._current = current
        self._shape = shape
        self._clock = clock
        self._monotonic = monotonic
        self.picture = Picture(retention=policy.retention, limit=policy.limit)
        if predecessor is not None:
            self.picture, self.picture.limit = predecessor.picture, policy.limit
        self._shapeless = Repeats(log, "cannot put a firing into shape", level="error")
        self._shaped: _Shaped = {}
        self._dropping = False
        self._changed = asyncio.Event()
        self._looking = asyncio.Lock()
        self._receivers = [
            Receiver(name, receiver, level, policy, self.picture, metrics, clock, monotonic, chance)
            for receiver in level.receivers
        ]

    @property
    def fault(self) -> str:
        """The unexpected exception that stopped the loop a moment ago; empty while it works."""
        return self._supervisor.message

    @property
    def condition(self) -> Condition:
        """The state: that of the receivers where all have the same, else failing."""
        if self.fault:
            return Condition.FAILING
        conditions = {receiver.condition for receiver in self._receivers}
        return conditions.pop() if len(conditions) == 1 else Condition.FAILING

    @property
    def delivers(self) -> bool:
        """False while every receiver refuses us, or all that it is sent."""
        takes = (one.condition not in (Condition.PAUSED, Condition.REFUSING) for one in self._receivers)
        return not self.fault and any(takes)

    @property
    def message(self) -> str:
        """What is wrong, for people; empty while nothing is."""
        if self.fault:
            return self.fault
        wrong = [f"{receiver.name}: {receiver.message}" for receiver in self._receivers if receiver.message]
        if self.picture.dropped:
            wrong.append(f"{self.picture.dropped} firings more than max_alerts are not told")
        return "; ".join(wrong)

    @property
    def pending(self) -> int:
        """How many firings and ends some receiver does not know of."""
        return max(receiver.waiting for receiver in self._receivers)

    @property
    def delivered(self) -> int:
        """How often a firing or its end was told, repeats included, since the start."""
        return sum(receiver.delivered for receiver in self._receivers)

    @property
    def failed(self) -> int:
        """How often telling one failed since the start."""
        return sum(receiver.failed for receiver in self._receivers)

    @property
    def last_delivery(self) -> float | None:
        """When a receiver last took something, in wall-clock seconds."""
        return max((r.last_delivery for r in self._receivers if r.last_delivery is not None), default=None)

    def changed(self, alert: str, *, news: bool = True) -> None:
        """A batch of an alert has been taken in. One without news matters if nothing was known of the alert."""
        if news or alert in self.picture.unknown:
            self._changed.set()

    async def run(self) -> None:
        """Look and tell until cancelled. An exception that no code expected makes it look again after a pause."""
        try:
            await self._supervisor.run(self._follow, _nothing)
        finally:
            await self._close()

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for receiver in self._receivers:
                tasks.create_task(receiver.run(), name=f"{self.name}: {receiver.name}")
            while True:
                self._changed.clear()
                await self._look()
                # Looking again before anything is told again finds what has become unknown meanwhile.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._policy.resend / 2):
                        await self._changed.wait()
                        await asyncio.sleep(self._policy.debounce)
                self._supervisor.works()

    async def settled(self) -> None:
        """Look once more, and return when every receiver that can be reached knows it. To be called before the sources
        are stopped, within a time limit."""
        await self._look()
        await asyncio.gather(*(receiver.idle.wait() for receiver in self._receivers))

    async def retired(self) -> None:
        """As `settled`, for an output that is no longer configured: all that stands is told as ended, since nobody will
        tell of it any more."""
        self._current = dict
        await self.settled()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSING):
                await self._level.close()
        except Exception:  # the run is over: what an output cannot let go of ends with the process
            log.exception("the output cannot be closed", channel=self.name)

    # Looking.

    async def _look(self) -> None:
        async with self._looking:
            current, wall = self._current(), self._clock()
            shaped, new = self._in_shape(current)
            if len(new) > _MANY:
                await asyncio.to_thread(self._put_in_shape, new, shaped, wall)
            else:
                self._put_in_shape(new, shaped, wall)
            self._shaped = shaped
            seen = {
                alert: None
                if transitions is None
                else [standing for _, standing in shaped[alert].values() if standing is not None]
                for alert, transitions in current.items()
            }
            self.picture.look(seen, self._monotonic(), wall)
            self._note_dropped()
        for receiver in self._receivers:
            receiver.wake()

    def _in_shape(self, current: Mapping[str, Sequence[Transition] | None]) -> tuple[_Shaped, list[Transition]]:
        """What fires now, in its order, with what is in shape already; and what is to be put into shape. What is not
        known now is kept as it was: it mostly comes back as it was, after a moment."""
        shaped: _Shaped = {}
        new = []
        for alert, transitions in current.items():
            before = self._shaped.get(alert, {})
            if transitions is None:
                shaped[alert] = before
                continue
            now = shaped[alert] = {}
            for transition in transitions:
                known = before.get(transition.fingerprint)
                if known is None or known[0] != transition:
                    new.append(transition)
                    known = transition, None
                now[transition.fingerprint] = known
        return shaped, new

    def _put_in_shape(self, new: Sequence[Transition], shaped: _Shaped, wall: float) -> None:
        for transition in new:
            shaped[transition.alert][transition.fingerprint] = transition, self._standing(transition, wall)

    def _standing(self, transition: Transition, wall: float) -> Standing | None:
        try:
            envelope = self._shape(transition)
            return None if envelope is None else self._level.standing(envelope, wall)
        except Exception:  # noqa: BLE001 - one bad row must not hide the others
            self._shapeless.add(transition.alert, channel=self.name, alert=transition.alert, exc_info=True)
            return None

    def _note_dropped(self) -> None:
        dropping = self.picture.dropped > 0
        if dropping and not self._dropping:
            log.warning(
                "more fires than max_alerts; the rest is not told", channel=self.name, dropped=self.picture.dropped
            )
        self._dropping = dropping


async def _nothing() -> None:
    """What there is to forget before the loop starts again: the picture stays true."""

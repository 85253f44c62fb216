"""Cancel what an episode has triggered, and delete its messages, once its row has stopped firing.

Novu makes the jobs of a trigger one recipient after another. It answers a cancel with `true`, and a deletion with 204,
as soon as there was something for *one* recipient; the others still get the message. It answers `false` and 404 when
it is too early as when it is too late (seen on live servers). So only one answer is final: a yes for a trigger with a
single recipient. Everything else is asked again until `cancel_within` has passed, since the row stopped firing and
since Novu accepted the trigger: what waited for an outage of Novu is triggered long after its row stopped firing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tocsin.channels.base import Delivered, Message, Reschedule, Result
from tocsin.channels.novu.api import Answer, Api
from tocsin.channels.novu.settings import Options
from tocsin.errors import Reason

V = TypeVar("V")

_SHORTEST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
_REMEMBERED = 10_000


@dataclass(slots=True, kw_only=True)
class _Progress:
    """What is known of one episode. A restart forgets it, and the questions are asked again."""

    since: float
    """Age of the resolve in seconds when this process first asked."""
    began: float = 0.0
    """Age of the resolve when the present round began."""
    waited: float = 0.0
    """Seconds of `cancel_within` that had passed then."""
    rounds: int = 0
    """How often every trigger was asked for."""
    to_ask: list[str] = field(default_factory=list)
    """Triggers that the present round has not asked for yet."""
    hit: set[str] = field(default_factory=set)
    """Triggers for which Novu had something to cancel or to delete."""


class Cancelling:
    """Asks Novu, and remembers what it answered until an episode is finished."""

    def __init__(self, api: Api, monotonic: Callable[[], float]) -> None:
        self._api = api
        self._monotonic = monotonic
        # Ordered by age; of what is forgotten too soon more is asked than needed.
        self._accepted: dict[str, float] = {}
        self._single: dict[str, None] = {}
        self._progress: dict[str, _Progress] = {}

    def triggered(self, id_: str, *, single_recipient: bool) -> None:
        """Note a trigger that Novu has just accepted."""
        _remember(self._accepted, id_, self._monotonic())
        if single_recipient:
            _remember(self._single, id_, None)

    async def take_back(self, message: Message, options: Options, deadline: float) -> Result:
        """Ask once for everything that the episode has sent. Reschedule while there may be more to take back.

        `deadline`: loop time after which no further question is begun; the next call goes on from there.
        """
        progress = self._progress.get(message.id) or _Progress(since=message.age)
        _remember(self._progress, message.id, progress)
        if not progress.to_ask:
            progress.began, progress.to_ask = message.age, self._open(message, progress)
            progress.waited = self._waited(message)
        while progress.to_ask:
            if asyncio.get_running_loop().time() >= deadline:
                return _again("Novu answers slowly, not everything was asked for yet", _SHORTEST_PAUSE)
            id_ = progress.to_ask[0]
            outcome = await self._take_back_one(id_, delete=options.on_resolve == "cancel_and_delete")
            if not isinstance(outcome, bool):
                return outcome
            if outcome:
                progress.hit.add(id_)
            del progress.to_ask[0]
        progress.rounds += 1
        left = options.cancel_within - progress.waited
        still_open = self._open(message, progress)
        if still_open and left > 0:
            # Each wait is as long as all before it: soon at first, then seldom.
            pause = max(_SHORTEST_PAUSE, min(progress.waited, left, _LONGEST_PAUSE))
            return _again(self._known(message, progress), pause)
        self._progress.pop(message.id, None)
        if still_open:
            return Delivered(self._known(message, progress), sent=False)
        return Delivered(f"took back {len(progress.hit)} of {len(message.previous_ids)}", sent=False)

    def _waited(self, message: Message) -> float:
        """Seconds since the row stopped firing and Novu accepted all triggers. A restart forgets the second."""
        now = self._monotonic()
        return min([message.age, *(now - self._accepted[id_] for id_ in message.previous_ids if id_ in self._accepted)])

    def _open(self, message: Message, progress: _Progress) -> list[str]:
        """The triggers for which Novu has not given its final answer."""
        return [id_ for id_ in message.previous_ids if not (id_ in progress.hit and id_ in self._single)]

    def _known(self, message: Message, progress: _Progress) -> str:
        """What is known so far, for the ledger. A yes says nothing of the other recipients."""
        partly = " at least in part" if progress.hit - self._single.keys() else ""
        until = f"{progress.began:.1f} s after the row stopped firing"
        asked = (
            f"once, {until}" if progress.rounds == 1 else f"{progress.rounds} times, {progress.since:.1f} to {until}"
        )
        return f"took back {len(progress.hit)} of {len(message.previous_ids)}{partly}; asked {asked}"

    async def _take_back_one(self, id_: str, *, delete: bool) -> bool | Result:
        """Whether Novu had something to cancel or to delete."""
        answer = await self._api.cancel(id_)
        if not isinstance(answer, Answer):
            return answer
        if not answer.ok:
            return self._api.failure(answer)
        cancelled = answer.content is True
        if not delete:
            return cancelled
        answer = await self._api.delete_in_app(id_)
        if not isinstance(answer, Answer):
            return answer
        if answer.ok:
            return True
        return cancelled if answer.status == 404 else self._api.failure(answer)


def _again(detail: str, after: float) -> Reschedule:
    return Reschedule(Reason.TOO_EARLY, detail, after, free=True)


def _remember(memory: dict[str, V], id_: str, value: V) -> None:
    memory[id_] = value
    while len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]

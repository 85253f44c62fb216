"""Cancel what an episode has triggered, and delete its messages, once its row has stopped firing.

Novu creates the jobs of a trigger one recipient after another. It answers a cancel with `true`, and a deletion with
204, as soon as there was something for *one* recipient; the others still get the message. It answers `false` and 404
when it is too early as when it is too late (seen on live servers). So only one answer is final: a yes for a trigger
with a single recipient. Everything else is repeated until `cancel_within` has passed, since the row stopped firing and
since Novu accepted the trigger: after an outage of Novu the trigger comes long after the row stopped firing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tocsin.channels.base import Delivered, Message, Reschedule, Result
from tocsin.channels.novu.api import Api, remember
from tocsin.channels.novu.settings import Options
from tocsin.errors import Reason

_SHORTEST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0


@dataclass(slots=True)
class _Progress:
    """The state of one episode. A restart forgets it, and everything is cancelled again."""

    rounds: int = 0
    """How often everything was cancelled."""
    hit: set[str] = field(default_factory=set)
    """Triggers for which Novu had something to cancel or to delete."""


class Cancelling:
    """Cancels, and remembers Novu's answers until an episode is finished."""

    def __init__(self, api: Api, monotonic: Callable[[], float]) -> None:
        self._api = api
        self._monotonic = monotonic
        # What is forgotten too soon is only cancelled more often.
        self._accepted: dict[str, float] = {}
        self._single: dict[str, None] = {}
        self._progress: dict[str, _Progress] = {}

    def triggered(self, id_: str, *, single_recipient: bool) -> None:
        """Note a trigger that Novu has just accepted."""
        remember(self._accepted, id_, self._monotonic())
        if single_recipient:
            remember(self._single, id_, None)

    async def cancel(self, message: Message, options: Options) -> Result:
        """Cancel once everything that the episode has triggered; Reschedule while there may be more to cancel. Raises
        CallError."""
        progress = self._progress.get(message.id) or _Progress()
        remember(self._progress, message.id, progress)
        waited, ids = self._waited(message), self._open(message, progress)
        delete = options.on_resolve == "cancel_and_delete"
        found = await asyncio.gather(*(self._cancel_one(id_, delete=delete) for id_ in ids), return_exceptions=True)
        progress.hit |= {id_ for id_, cancelled in zip(ids, found, strict=True) if cancelled is True}
        for error in found:
            if isinstance(error, BaseException):
                raise error
        progress.rounds += 1
        remaining = options.cancel_within - waited
        still_open = self._open(message, progress)
        if still_open and remaining > 0:
            # Each pause is as long as all before it: short at first, then longer.
            pause = max(_SHORTEST_PAUSE, min(waited, remaining, _LONGEST_PAUSE))
            return Reschedule(Reason.TOO_EARLY, self._note(message, progress), pause, free=True)
        self._progress.pop(message.id, None)
        if still_open:
            return Delivered(self._note(message, progress), sent=False)
        return Delivered(f"cancelled {len(progress.hit)} of {len(message.previous_ids)}", sent=False)

    async def _cancel_one(self, id_: str, *, delete: bool) -> bool:
        cancelled = await self._api.cancel(id_)
        return (delete and await self._api.delete_in_app(id_)) or cancelled

    def _waited(self, message: Message) -> float:
        """Seconds since the row stopped firing and Novu accepted all triggers. A restart forgets the second."""
        now = self._monotonic()
        return min([message.age, *(now - self._accepted[id_] for id_ in message.previous_ids if id_ in self._accepted)])

    def _open(self, message: Message, progress: _Progress) -> list[str]:
        """The triggers for which Novu has not given its final answer."""
        return [id_ for id_ in message.previous_ids if not (id_ in progress.hit and id_ in self._single)]

    def _note(self, message: Message, progress: _Progress) -> str:
        """The state so far, for the ledger. A yes says nothing of the other recipients."""
        partly = " at least in part" if progress.hit - self._single.keys() else ""
        times = "once" if progress.rounds == 1 else f"{progress.rounds} times"
        tried = f"tried {times}, until {message.age:.1f} s after the row stopped firing"
        return f"cancelled {len(progress.hit)} of {len(message.previous_ids)}{partly}; {tried}"

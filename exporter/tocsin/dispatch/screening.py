"""Holding back the claimed notifications that a silence matches, before they are sent."""

import asyncio
from collections.abc import Sequence

from tocsin.dispatch.base import Setup
from tocsin.ledger.silencing import Judged
from tocsin.model import Kind, Notification
from tocsin.silences import Silence, first_match


class Screen:
    """The silences of one channel's notifications.

    Members of a digest are held one by one, and the others are sent. One that was sent before is repeated with the same
    content: it is held if all of its members are.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._last: tuple[Silence, ...] = ()

    @property
    def outdated(self) -> bool:
        """Whether other silences are active than those that were applied last."""
        return self._active() != self._last

    async def passing(self, heads: Sequence[Notification]) -> list[Notification]:
        """The claimed notifications that may be sent, of digests the first. The others are no longer claimed. Raises
        LedgerError, with all still claimed."""
        active = self._active()
        if self._setup.ledger.silences.all and heads:
            heads = await self._screened(heads, active)
        self._last = active
        return list(heads)

    def _active(self) -> tuple[Silence, ...]:
        return self._setup.ledger.silences.active(self._setup.clock())

    async def _screened(self, heads: Sequence[Notification], active: Sequence[Silence]) -> list[Notification]:
        held: dict[int, str] = {}
        passing: list[Notification] = []
        for head in heads:
            members: Sequence[Notification] = [head]
            if head.digest is not None:
                members = await self._setup.ledger.digest(head) or members
            found = self._judged(members, active)
            if head.attempts and len(found) < len(members):
                found = {}
            held |= found
            # A silenced notification of an event's row is of another moment, and need not go before it.
            passing += [one for one in members if one.seq not in found and one.transition.kind is not Kind.EVENT]
            await asyncio.sleep(0)  # an expression may take milliseconds
        gone = await self._setup.ledger.withhold(self._setup.name, Judged(held=held, passing=passing))
        return [head for head in heads if head.seq not in gone]

    def _judged(self, members: Sequence[Notification], active: Sequence[Silence]) -> dict[int, str]:
        found = {}
        for one in members:
            # What was released from its key was sent before, and is only followed up (a cancel).
            if not one.passes and not one.ordering_key.startswith("released "):
                silence = first_match(active, self._setup.labels(one)) if active else None
                if silence is not None:
                    found[one.seq] = silence.id
        return found

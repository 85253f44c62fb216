"""From notifications to the channel and back with how it went: whatever goes wrong on the way is a result, too."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import structlog

from tocsin.channels import Channel, Message, Rejected, Result, Retry
from tocsin.errors import LedgerError, Reason
from tocsin.ledger import Ledger
from tocsin.model import Notification
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

Compose = Callable[[Sequence[Notification]], "Message | Rejected"]
"""Makes what the channel sends from what the ledger keeps, with today's configuration: one message of one notification,
or of those that were merged."""

_GRACE = 5.0
"""Seconds that a channel is given beyond its own timeout."""


class Sent(NamedTuple):
    """What went in one message, and how: `head`, which stands for it in its lane, first."""

    together: Sequence[Notification]
    result: Result


class Sender:
    """Composes and sends. Raises nothing of its own, and is cancelled only by who asks for it."""

    def __init__(self, name: str, channel: Channel, ledger: Ledger, compose: Compose, timeout: float) -> None:
        """`timeout`: seconds, the channel's own."""
        self._name = name
        self._channel = channel
        self._ledger = ledger
        self._compose = compose
        self._timeout = timeout
        self._unreadable = Repeats(log, "cannot read the outbox", level="error")
        self._uncomposed = Repeats(log, "cannot compose a notification", level="error")
        self._raised = Repeats(log, "the channel failed", level="error")
        self._unanswered = Repeats(log, "the channel did not answer each message once", level="error")

    async def send(self, batch: Sequence[Notification], attempting: Callable[[int], None]) -> list[Sent]:
        """Send the messages of these notifications in one call, in order. `attempting` is told how many messages there
        are: those that can be composed."""
        composed = [await self._composed(notification) for notification in batch]
        messages = [message for _, message in composed if isinstance(message, Message)]
        if messages:
            attempting(len(messages))
        answers = iter(await self._call(messages) if messages else ())
        return [
            Sent(together, next(answers) if isinstance(message, Message) else message) for together, message in composed
        ]

    async def _composed(self, head: Notification) -> tuple[Sequence[Notification], Message | Rejected | Retry]:
        """What goes in one message, `head` first, and the message."""
        together: Sequence[Notification] = (head,)
        try:
            if head.digest is not None:
                gathered = await self._ledger.gather(head) or together
                together = (head, *(one for one in gathered if one.seq != head.seq))
            else:
                gathered = together
            message = self._compose(gathered)
            if isinstance(message, Message) and message.kind in self._channel.wants_earlier:
                message = replace(message, earlier=await self._earlier(gathered))
        except LedgerError as error:
            self._unreadable.add(channel=self._name, error=str(error))
            return together, Retry(Reason.INTERNAL, "the ledger could not be read", free=True)
        except Exception as error:  # noqa: BLE001 - one bad notification must not stop the channel
            self._uncomposed.add(type(error).__name__, channel=self._name, notification=head.id, exc_info=True)
            return together, Rejected(Reason.INTERNAL, f"cannot be composed: {type(error).__name__}")
        return together, message

    async def _earlier(self, together: Sequence[Notification]) -> tuple[str, ...]:
        return tuple([id_ for notification in together for id_ in await self._ledger.earlier(notification)])

    async def _call(self, messages: Sequence[Message]) -> Sequence[Result]:
        try:
            # The channel keeps to its own timeout; this one is for a channel that does not.
            async with asyncio.timeout(self._timeout + _GRACE):
                results = await self._channel.send(messages)
        except TimeoutError:
            return [Retry(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")] * len(messages)
        except (Exception, asyncio.CancelledError) as error:
            # A defect of a channel is a failed attempt, not the end of the process; a cancellation that nobody asked
            # for is one too.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self._raised.add(type(error).__name__, channel=self._name, exc_info=True)
            return [Retry(Reason.INTERNAL, f"the channel raised {type(error).__name__}")] * len(messages)
        if not _answers(results, len(messages)):
            self._unanswered.add(channel=self._name)
            return [Retry(Reason.INTERNAL, "the channel did not answer each message once")] * len(messages)
        return results


def _answers(results: object, count: int) -> bool:
    """Whether a channel kept to its contract. Types say so too, but a channel may come from elsewhere."""
    return isinstance(results, Sequence) and len(results) == count and all(isinstance(one, Result) for one in results)

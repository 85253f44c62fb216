"""Composing and sending. Whatever goes wrong on the way is a result, too."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import structlog

from tocsin.channels.base import BatchingChannel, Message, Plan, Rejected, Result, Retry
from tocsin.dispatch.base import Setup
from tocsin.errors import LedgerError, Reason
from tocsin.faults import must_end
from tocsin.model import Notification
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_GRACE = 5.0
"""Seconds that a channel has beyond its own timeout."""

_UNREAD = Retry(Reason.INTERNAL, "the ledger could not be read", free=True)
_UNWRITTEN = Retry(Reason.INTERNAL, "the ledger could not be written", free=True)
_OVERDUE = Retry(Reason.INTERNAL, "the ledger could not be reached, so that another process may send this", free=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """Notifications to send next, in the order of `seq`."""

    heads: Sequence[Notification]
    """The first pending notification of each ordering key; of a digest its first."""
    sent_before: bool = False
    """Whether they are the members of one request that may have been sent before."""


class Sent(NamedTuple):
    """The notifications of one message, its head first, and the result."""

    notifications: Sequence[Notification]
    result: Result


@dataclass(slots=True, kw_only=True)
class Sending:
    """What became of one claim."""

    separate: list[Sent] = field(default_factory=list)
    """Messages with a request of their own, or without one: decided one by one."""
    in_request: list[Sent] = field(default_factory=list)
    """The messages of one request with one idempotency key."""
    unsent: list[Notification] = field(default_factory=list)
    """Heads that are sent later: in another request, or with a part of their digest."""
    answers: list[Result] = field(default_factory=list)
    """All results of the channel."""


class _Composed(NamedTuple):
    """The notifications of one message, its head first, and the message or why there is none."""

    notifications: Sequence[Notification]
    message: Message | Rejected | Retry


class Sender:
    """Composes and sends. Raises nothing of its own, and is cancelled only by its caller."""

    def __init__(self, setup: Setup) -> None:
        self._name = setup.name
        self._channel = channel = setup.channel
        self._ledger = setup.ledger
        self._compose = setup.compose
        self._timeout = setup.policy.timeout
        self._unreadable = Repeats(log, "cannot read the outbox", level="error")
        self._unwritable = Repeats(log, "cannot write the outbox", level="error")
        self._uncomposed = Repeats(log, "cannot compose a notification", level="error")
        self._raised = Repeats(log, "the channel failed", level="error")
        self._unanswered = Repeats(log, "the channel did not answer each message once", level="error")
        self._splits = Repeats(log, "digest split: it is too large", level="info")
        self._batching = channel if isinstance(channel, BatchingChannel) else None

    async def send(self, claim: Claim, attempting: Callable[[int], None]) -> Sending:
        """Send the messages of a claim. Of a channel with plans, the first request; the rest is left `unsent`.

        `attempting` is called with the number of messages that are sent.
        """
        composed = [await self._composed(head) for head in claim.heads]
        if claim.sent_before and any(isinstance(one.message, Retry) for one in composed):
            # A part of a request is another request, so it waits until all of it can be composed.
            return Sending(in_request=[Sent(one.notifications, _UNREAD) for one in composed])
        if self._batching is None:
            sending = await self._send_each(composed, attempting)
        else:
            sending = await self._send_planned(self._batching, claim, composed, attempting)
        await self._split_digests(sending)
        return sending

    async def _send_each(self, composed: Sequence[_Composed], attempting: Callable[[int], None]) -> Sending:
        """Send messages that have idempotency keys of their own, in one call."""
        messages = [one.message for one in composed if isinstance(one.message, Message)]
        results: Sequence[Result] = ()
        if messages:
            attempting(len(messages))
            results = await self._call(lambda: self._channel.send(messages), len(messages))
        answers = iter(results)
        sent = [
            Sent(one.notifications, next(answers) if isinstance(one.message, Message) else one.message)
            for one in composed
        ]
        return Sending(separate=sent, answers=[one.result for one in sent])

    # Several messages in one request.

    async def _send_planned(
        self,
        channel: BatchingChannel,
        claim: Claim,
        composed: Sequence[_Composed],
        attempting: Callable[[int], None],
    ) -> Sending:
        plan = self._plan(channel, [one.message for one in composed if isinstance(one.message, Message)])
        by_id = {one.message.id: one.notifications for one in composed if isinstance(one.message, Message)}
        separate = [Sent(one.notifications, one.message) for one in composed if not isinstance(one.message, Message)]
        separate += [Sent(by_id[id_], result) for id_, result in plan.decided.items()]
        sending = Sending(separate=separate, answers=[one.result for one in separate])
        if not plan.requests:
            return sending

        def heads(messages: Sequence[Message]) -> list[Notification]:
            return [by_id[message.id][0] for message in messages]

        first, *others = [heads(request.messages) for request in plan.requests]
        unchanged = claim.sent_before and {one.seq for one in first} == {one.seq for one in claim.heads}
        if not unchanged and not await self._bind([first, *others]):
            sent = [Sent(one.notifications, _UNWRITTEN) for one in composed]
            return Sending(in_request=sent) if claim.sent_before else Sending(separate=sent)
        sending.unsent = [head for members in others for head in members]
        request = plan.requests[0]
        attempting(len(request.messages))
        results = await self._call(request.send, len(request.messages))
        sending.answers += results
        if len(results) > 1 and all(isinstance(result, Rejected) for result in results):
            # The parts take the place of the whole before they are sent: it is never sent again under its key.
            if await self._bind([heads(messages) for messages in request.parts]):
                sending.unsent += first
                return sending
            results = [_UNWRITTEN] * len(results)
        sending.in_request = [
            Sent(by_id[message.id], result) for message, result in zip(request.messages, results, strict=True)
        ]
        return sending

    def _plan(self, channel: BatchingChannel, messages: Sequence[Message]) -> Plan:
        try:
            return channel.plan(messages)
        except Exception as error:  # noqa: BLE001 - a defect of a channel is a failed attempt, not the end of the process
            return Plan((), {message.id: self._defect(error) for message in messages})

    async def _bind(self, requests: Sequence[Sequence[Notification]]) -> bool:
        """Write what is in each request, before it is sent: a message alone too, or a process that starts after a kill
        might send it with others, under another key."""
        try:
            await self._ledger.bind([[head.seq for head in members] for members in requests])
        except LedgerError as error:
            self._unwritable.add(channel=self._name, error=str(error))
            return False
        return True

    # Digests that are too large.

    async def _split_digests(self, sending: Sending) -> None:
        for sent in (sending.separate, sending.in_request):
            for one in [one for one in sent if _is_too_large(one)]:
                sent.remove(one)
                if await self._split(one):
                    sending.unsent.append(one.notifications[0])
                else:
                    sending.separate.append(Sent(one.notifications, _UNWRITTEN))

    async def _split(self, sent: Sent) -> bool:
        """Divide a digest in two."""
        head, result = sent.notifications[0], sent.result
        assert isinstance(result, Rejected)
        ordered = sorted(one.seq for one in sent.notifications)
        try:
            await self._ledger.split_digest(head, ordered[len(ordered) // 2], refused=not result.unsent)
        except LedgerError as error:
            self._unwritable.add(channel=self._name, error=str(error))
            return False
        self._splits.add(channel=self._name, notification=head.id, merged=len(ordered), detail=result.detail)
        return True

    # Composing and calling.

    async def _composed(self, head: Notification) -> _Composed:
        """Make the message of a head: its own, or that of its digest."""
        notifications: Sequence[Notification] = [head]
        try:
            if head.digest is not None:
                notifications = await self._ledger.digest(head) or notifications
            message = self._compose(notifications)
            if isinstance(message, Message) and message.kind in self._channel.needs_previous_ids:
                ids = [id_ for one in notifications for id_ in await self._ledger.previous_ids(one)]
                message = replace(message, previous_ids=tuple(ids))
        except LedgerError as error:
            self._unreadable.add(channel=self._name, error=str(error))
            return _Composed(notifications, _UNREAD)
        except Exception as error:  # noqa: BLE001 - one bad notification must not stop the channel
            self._uncomposed.add(type(error).__name__, channel=self._name, notification=head.id, exc_info=True)
            return _Composed(notifications, Rejected(Reason.INTERNAL, f"cannot be composed: {type(error).__name__}"))
        return _Composed(notifications, message)

    async def _call(self, send: Callable[[], Awaitable[Sequence[Result]]], count: int) -> Sequence[Result]:
        """The results of a call that sends `count` messages."""
        if not self._ledger.sharing.valid:
            return [_OVERDUE] * count
        try:
            # For a channel that does not keep its own timeout.
            async with asyncio.timeout(self._timeout + _GRACE):
                results = await send()
        except TimeoutError:
            return [Retry(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")] * count
        except (Exception, asyncio.CancelledError) as error:
            # A cancellation that no one asked for is a failed attempt, too.
            if must_end(error):
                raise
            return [self._defect(error)] * count
        if not _is_complete(results, count):
            self._unanswered.add(channel=self._name)
            return [Retry(Reason.INTERNAL, "the channel did not answer each message once")] * count
        return results

    def _defect(self, error: BaseException) -> Retry:
        self._raised.add(type(error).__name__, channel=self._name, exc_info=error)
        return Retry(Reason.INTERNAL, f"the channel raised {type(error).__name__}")


def _is_too_large(sent: Sent) -> bool:
    result = sent.result
    return isinstance(result, Rejected) and result.reason is Reason.TOO_LARGE and len(sent.notifications) > 1


def _is_complete(results: object, count: int) -> bool:
    """Whether a channel kept its contract. Types say so too, but a channel may be foreign code."""
    return isinstance(results, Sequence) and len(results) == count and all(isinstance(one, Result) for one in results)

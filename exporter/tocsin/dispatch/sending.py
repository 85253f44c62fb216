"""Send notifications to the channel. Whatever goes wrong on the way is a result, too."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from tocsin.channels.base import BatchingChannel, Channel, Message, Plan, Rejected, Result, Retry
from tocsin.dispatch.lanes import Bulk
from tocsin.errors import LedgerError, Reason
from tocsin.ledger.base import Bulks, Ledger
from tocsin.model import Notification
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

Compose = Callable[[Sequence[Notification]], "Message | Rejected"]
"""Makes what the channel sends from what the ledger keeps, with today's configuration: one message of one notification,
or of those that were merged."""

_GRACE = 5.0
"""Seconds that a channel is given beyond its own timeout."""

_UNREAD = Retry(Reason.INTERNAL, "the ledger could not be read", free=True)
_UNWRITTEN = Retry(Reason.INTERNAL, "the ledger could not be written", free=True)


class Sent(NamedTuple):
    """What went in one message, and its result: `head`, which stands for it in its lane, first."""

    together: Sequence[Notification]
    result: Result

    @property
    def head(self) -> Notification:
        """The notification that stands for all of them in its lane."""
        return self.together[0]


class Cut(NamedTuple):
    """A digest that was too large, and was cut in two: `head` stands for the first part, `rest` for the second."""

    head: Notification
    rest: Notification | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What became of one claim.

    `apart`: results of messages that share no request with others. `together`: those of `bulk`, which went in one
    request. `later`: bulks that are to be sent next. `cut`: digests that are to be sent in parts. `answers`: all that
    the channel said.
    """

    apart: Sequence[Sent] = ()
    together: Sequence[Sent] = ()
    bulk: Bulk | None = None
    later: Sequence[Bulk] = ()
    cut: Sequence[Cut] = ()
    answers: Sequence[Result] = ()


class _Composed(NamedTuple):
    """What goes in one message, its head first, and the message or why there is none."""

    together: Sequence[Notification]
    message: Message | Rejected | Retry


class Sender:
    """Composes and sends. Raises nothing of its own, and is cancelled only by its caller."""

    def __init__(self, name: str, channel: Channel, ledger: Ledger, compose: Compose, timeout: float) -> None:
        """`timeout`: seconds, the channel's own."""
        self._name = name
        self._channel = channel
        self._ledger = ledger
        self._compose = compose
        self._timeout = timeout
        self._unreadable = Repeats(log, "cannot read the outbox", level="error")
        self._unwritable = Repeats(log, "cannot write the outbox", level="error")
        self._uncomposed = Repeats(log, "cannot compose a notification", level="error")
        self._raised = Repeats(log, "the channel failed", level="error")
        self._unanswered = Repeats(log, "the channel did not answer each message once", level="error")
        self._cuts = Repeats(log, "digest cut in two: it is too large", level="info")
        # Asked once: a protocol takes its time to answer.
        self._bulking = channel if isinstance(channel, BatchingChannel) else None

    @property
    def bulking(self) -> bool:
        """Whether what goes in one request has one idempotency key."""
        return self._bulking is not None

    async def send(self, claim: Sequence[Notification] | Bulk, attempting: Callable[[int], None]) -> Sending:
        """Send the messages of these notifications, in order. Of a channel that sends several in one request, the first
        request; the others are in `later`. `attempting` is called with the number of messages that are sent."""
        members = claim.members if isinstance(claim, Bulk) else claim
        composed = [await self._composed(notification) for notification in members]
        if isinstance(claim, Bulk) and any(isinstance(one.message, Retry) for one in composed):
            # Part of a bulk is another request, so it waits until all of it can be composed.
            return Sending(together=[Sent(one.together, _UNREAD) for one in composed], bulk=claim)
        if self._bulking is not None:
            sending = await self._send_planned(self._bulking, claim, composed, attempting)
        else:
            sending = await self._send_each(composed, attempting)
        return await self._with_cuts(sending)

    async def _send_each(self, composed: Sequence[_Composed], attempting: Callable[[int], None]) -> Sending:
        """Send messages that have idempotency keys of their own, in one call."""
        messages = [one.message for one in composed if isinstance(one.message, Message)]
        if messages:
            attempting(len(messages))
        results = await self._call(lambda: self._channel.send(messages), len(messages)) if messages else ()
        answers = iter(results)
        sent = [
            Sent(one.together, next(answers) if isinstance(one.message, Message) else one.message) for one in composed
        ]
        return Sending(apart=sent, answers=[one.result for one in sent])

    # Several messages in one request.

    async def _send_planned(
        self,
        channel: BatchingChannel,
        claim: Sequence[Notification] | Bulk,
        composed: Sequence[_Composed],
        attempting: Callable[[int], None],
    ) -> Sending:
        plan = self._planned(channel, [one.message for one in composed if isinstance(one.message, Message)])
        by_id = {one.message.id: one for one in composed if isinstance(one.message, Message)}
        apart = [Sent(one.together, one.message) for one in composed if not isinstance(one.message, Message)]
        apart += [Sent(by_id[id_].together, result) for id_, result in plan.decided.items()]
        known = [one.result for one in apart]
        if not plan.requests:
            return Sending(apart=apart, answers=known)
        bulks = [_bulk(request.messages, by_id) for request in plan.requests]
        if isinstance(claim, Bulk) and [bulk.seqs for bulk in bulks] == [claim.seqs]:
            bulks = [claim]
        try:
            bulks = await self._bind(bulks, instead_of=claim)
        except LedgerError:
            return self._unwritten(claim, composed)
        request, (bulk, *later) = plan.requests[0], bulks
        attempting(len(request.messages))
        results = await self._call(request.send, len(request.messages))
        answers = [*known, *results]
        if len(results) > 1 and all(isinstance(result, Rejected) for result in results):
            parts = [_bulk(messages, by_id) for messages in request.split()]
            try:
                parts = await self._bind(parts, instead_of=bulk)
            except LedgerError:
                results = [_UNWRITTEN] * len(results)
            else:
                return Sending(apart=apart, later=[*parts, *later], answers=answers)
        together = [
            Sent(by_id[message.id].together, result) for message, result in zip(request.messages, results, strict=True)
        ]
        return Sending(apart=apart, together=together, bulk=bulk, later=later, answers=answers)

    def _planned(self, channel: BatchingChannel, messages: Sequence[Message]) -> Plan:
        try:
            return channel.plan(messages)
        except Exception as error:  # noqa: BLE001 - a defect of a channel is a failed attempt, not the end of the process
            self._raised.add(type(error).__name__, channel=self._name, exc_info=True)
            failed = Retry(Reason.INTERNAL, f"the channel raised {type(error).__name__}")
            return Plan((), {message.id: failed for message in messages})

    async def _bind(self, bulks: Sequence[Bulk], instead_of: Sequence[Notification] | Bulk) -> list[Bulk]:
        """Write what goes in one request, before it is sent: a message alone too, or a process that starts after a kill
        might send it together with others, under another key."""
        made = [bulk.seqs for bulk in bulks if not bulk.stored]
        old = instead_of if isinstance(instead_of, Bulk) and instead_of.stored else None
        ended = [old.seqs[0]] if old is not None and old not in bulks else []
        if made or ended:
            try:
                await self._ledger.bind(Bulks(channel=self._name, made=made, ended=ended))
            except LedgerError as error:
                self._unwritable.add(channel=self._name, error=str(error))
                raise
        return [replace(bulk, stored=True) for bulk in bulks]

    def _unwritten(self, claim: Sequence[Notification] | Bulk, composed: Sequence[_Composed]) -> Sending:
        """Nothing was sent."""
        sent = [Sent(one.together, _UNWRITTEN) for one in composed]
        return Sending(together=sent, bulk=claim) if isinstance(claim, Bulk) else Sending(apart=sent)

    # Digests that are too large.

    async def _with_cuts(self, sending: Sending) -> Sending:
        """The same, with digests that are too large cut in two."""
        if not any(_to_cut(one) for one in (*sending.apart, *sending.together)):
            return sending
        apart = [await self._cut(one) for one in sending.apart]
        together = [await self._cut(one) for one in sending.together]
        return replace(
            sending,
            apart=[one for one in apart if isinstance(one, Sent)],
            together=[one for one in together if isinstance(one, Sent)],
            cut=[one for one in (*apart, *together) if isinstance(one, Cut)],
        )

    async def _cut(self, sent: Sent) -> Sent | Cut:
        """Cut a digest that is too large; anything else stays as it is."""
        if not _to_cut(sent) or not isinstance(sent.result, Rejected):
            return sent
        head, result = sent.head, sent.result
        ordered = sorted(one.seq for one in sent.together)
        refused = not result.unsent
        try:
            rest = await self._ledger.cut(head, ordered[len(ordered) // 2], refused=refused)
        except LedgerError as error:
            self._unwritable.add(channel=self._name, error=str(error))
            return Sent(sent.together, _UNWRITTEN)
        self._cuts.add(channel=self._name, notification=head.id, merged=len(ordered), detail=result.detail)
        return Cut(replace(head, generation=head.generation + refused, not_before=0.0), rest)

    # Composing and calling.

    async def _composed(self, head: Notification) -> _Composed:
        """Make the message that `head` stands for."""
        together: Sequence[Notification] = (head,)
        try:
            if head.digest is not None:
                gathered = await self._ledger.gather(head) or together
                together = (head, *(one for one in gathered if one.seq != head.seq))
            else:
                gathered = together
            message = self._compose(gathered)
            if isinstance(message, Message) and message.kind in self._channel.needs_previous_ids:
                message = replace(message, previous_ids=await self._earlier(gathered))
        except LedgerError as error:
            self._unreadable.add(channel=self._name, error=str(error))
            return _Composed(together, _UNREAD)
        except Exception as error:  # noqa: BLE001 - one bad notification must not stop the channel
            self._uncomposed.add(type(error).__name__, channel=self._name, notification=head.id, exc_info=True)
            return _Composed(together, Rejected(Reason.INTERNAL, f"cannot be composed: {type(error).__name__}"))
        return _Composed(together, message)

    async def _earlier(self, together: Sequence[Notification]) -> tuple[str, ...]:
        return tuple([id_ for notification in together for id_ in await self._ledger.earlier(notification)])

    async def _call(self, send: Callable[[], Awaitable[Sequence[Result]]], count: int) -> Sequence[Result]:
        """The results of a call that sends so many messages."""
        try:
            # The channel keeps to its own timeout; this one is for a channel that does not.
            async with asyncio.timeout(self._timeout + _GRACE):
                results = await send()
        except TimeoutError:
            return [Retry(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")] * count
        except (Exception, asyncio.CancelledError) as error:
            # A defect of a channel is a failed attempt, not the end of the process; so is a cancellation that nobody
            # asked for.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self._raised.add(type(error).__name__, channel=self._name, exc_info=True)
            return [Retry(Reason.INTERNAL, f"the channel raised {type(error).__name__}")] * count
        if not _answers(results, count):
            self._unanswered.add(channel=self._name)
            return [Retry(Reason.INTERNAL, "the channel did not answer each message once")] * count
        return results


def _bulk(messages: Sequence[Message], by_id: dict[str, _Composed]) -> Bulk:
    return Bulk(tuple(by_id[message.id].together[0] for message in messages))


def _to_cut(sent: Sent) -> bool:
    result = sent.result
    return isinstance(result, Rejected) and result.reason is Reason.TOO_LARGE and len(sent.together) > 1


def _answers(results: object, count: int) -> bool:
    """Whether a channel kept to its contract. Types say so too, but a channel may come from elsewhere."""
    return isinstance(results, Sequence) and len(results) == count and all(isinstance(one, Result) for one in results)

"""Several messages in one request: how a batch that is rejected as a whole is divided."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tocsin.channels.base import BatchingChannel, Message, Paused, Rejected, Result, Retry

T = TypeVar("T")


async def isolate(items: Sequence[T], send: Callable[[Sequence[T]], Awaitable[Result]]) -> list[Result]:
    """Send `items` in one request, and in halves where the receiver rejects it: one bad item spoils a batch.

    Returns the result of each item, in order. After a failure that concerns the receiver, the rest is not sent.
    For channels whose requests have no idempotency key; those of a `BatchingChannel` are divided by the dispatcher,
    which writes the parts to the ledger before it sends them.
    """
    result = await send(items)
    if len(items) == 1 or not isinstance(result, Rejected):
        return [result] * len(items)
    first, second = halves(items)
    results = await isolate(first, send)
    if isinstance(results[-1], Retry | Paused):
        return [*results, *[results[-1]] * len(second)]
    return [*results, *await isolate(second, send)]


def halves(items: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """The two halves of at least two items, in order."""
    middle = len(items) // 2
    return items[:middle], items[middle:]


async def send_planned(channel: BatchingChannel, messages: Sequence[Message]) -> Sequence[Result]:
    """Send each request of the channel's plan once: `Channel.send` of a `BatchingChannel`."""
    plan = channel.plan(messages)
    results = dict(plan.decided)
    for request in plan.requests:
        sent = zip(request.messages, await request.send(), strict=True)
        results |= {message.id: result for message, result in sent}
    return [results[message.id] for message in messages]

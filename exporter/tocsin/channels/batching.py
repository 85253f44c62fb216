"""Several messages in one request: how they are divided into batches, and a batch that is rejected as a whole."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tocsin.channels.base import Paused, Rejected, Result, Retry

T = TypeVar("T")


def batched(items: Iterable[T], size: Callable[[T], int], *, most: int, most_bytes: int) -> Iterator[list[T]]:
    """Divide items, in order, into batches of at most `most` items and `most_bytes` bytes. A larger item goes alone."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (len(batch) == most or total + size(item) > most_bytes):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


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

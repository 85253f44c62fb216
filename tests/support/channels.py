"""A channel with scripted answers, which checks that the dispatcher keeps the channel contract."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet

from tocsin.channels.base import Channel, Delivered, Message, Result
from tocsin.model import Kind

Answer = Callable[[Message], Result | Awaitable[Result]]


def deliver(_message: Message) -> Result:
    """The answer of a receiver that accepts everything."""
    return Delivered()


class FakeChannel(Channel):
    """Records each send, and notes in `broken` whatever the channel contract forbids.

    `answer` gives the result of a message, at once or later; `bulk` is the most that `take` asks for. `gate` holds
    every send back while it is closed.
    """

    def __init__(
        self, answer: Answer = deliver, *, bulk: int = 1, needs_previous_ids: AbstractSet[Kind] = frozenset()
    ) -> None:
        self.needs_previous_ids = needs_previous_ids
        self.answer = answer
        self.bulk = bulk
        self.gate = asyncio.Event()
        self.gate.set()
        self.sends: list[list[Message]] = []
        self.delivered: list[Message] = []
        self.under_way = 0
        self.most_under_way = 0
        self.closed = 0
        self.broken: list[str] = []
        self._busy: Counter[str] = Counter()

    @property
    def ids(self) -> list[str]:
        """The id of every message of every send, repeats included."""
        return [message.id for messages in self.sends for message in messages]

    def attempts(self, id_: str) -> int:
        """How often a message was sent."""
        return self.ids.count(id_)

    def batch_size(self, pending: int) -> int:
        return min(pending, self.bulk)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        names = [message.envelope["fingerprint"] for message in messages]
        self.sends.append(list(messages))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self._busy.update(names)
        if any(self._busy[name] > 1 for name in names):
            self.broken.append(f"two notifications of one episode under way at once: {names}")
        if self.closed:
            self.broken.append("a send after the end")
        try:
            await self.gate.wait()
            results = [await self._answered(message) for message in messages]
        finally:
            self.under_way -= 1
            self._busy.subtract(names)
        self.delivered += [
            message for message, result in zip(messages, results, strict=True) if isinstance(result, Delivered)
        ]
        return results

    async def _answered(self, message: Message) -> Result:
        result = self.answer(message)
        return await result if isinstance(result, Awaitable) else result

    async def close(self) -> None:
        self.closed += 1


def script(*results: Result) -> Answer:
    """These answers one after another, then delivered."""
    left = list(results)
    return lambda _message: left.pop(0) if left else Delivered()

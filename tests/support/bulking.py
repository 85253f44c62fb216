"""A channel that sends several messages in one request, to a receiver that keeps answers under idempotency keys."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial

from tocsin.channels.base import BatchingChannel, Delivered, Message, Plan, Rejected, Request, Result, Retry
from tocsin.channels.batching import halves
from tocsin.errors import Reason
from tocsin.model import Kind

LOST = Retry(Reason.TIMEOUT, "no answer")
LIMITED = Retry(Reason.RATE_LIMITED, "slow down", free=True)
LARGE = Rejected(Reason.TOO_LARGE, "413")


@dataclass
class KeyedReceiver:
    """Accepts a request once under each key, and answers a repeat from memory, as Novu does.

    `refuses`: what it says of a request instead of accepting it; such an answer is kept under the key too. `broken`:
    what no client may do: another body under a used key, or a used key after a final error.
    """

    refuses: Callable[[Sequence[str]], Rejected | None] = lambda _ids: None
    accepted: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    _answers: dict[str, tuple[str, Result]] = field(default_factory=dict)

    def take(self, key: str, ids: Sequence[str], body: str) -> Result:
        """One request."""
        if key in self._answers:
            known, answer = self._answers[key]
            if known != body:
                self.broken.append(f"another body under {key}")
            if isinstance(answer, Rejected):
                self.broken.append(f"a final error repeated under {key}")
            return answer
        answer = self.refuses(ids) or Delivered()
        self._answers[key] = (body, answer)
        if isinstance(answer, Delivered):
            self.accepted.update(ids)
        return answer


class KeyedChannel(BatchingChannel):
    """Sends up to `most` messages in one request. `line`: what happens to a request on its way: None lets it through,
    a result is what comes of it instead; with `arrives`, after the receiver has it."""

    needs_previous_ids: AbstractSet[Kind] = frozenset()

    def __init__(self, receiver: KeyedReceiver, *, most: int = 100) -> None:
        self.receiver = receiver
        self.most = most
        self.line: Callable[[], Result | None] = lambda: None
        self.arrives = True
        self.each: Callable[[str], Result | None] = lambda _id: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.sent: list[tuple[str, list[str]]] = []
        """The key and the ids of every request, repeats included."""

    @property
    def requests(self) -> list[list[str]]:
        """The ids of every request, repeats included."""
        return [ids for _, ids in self.sent]

    @property
    def keys(self) -> list[str]:
        """The idempotency key of every request, repeats included."""
        return [key for key, _ in self.sent]

    def batch_size(self, pending: int) -> int:
        return min(pending, self.most)

    def plan(self, messages: Sequence[Message]) -> Plan:
        chunks = [messages[start : start + self.most] for start in range(0, len(messages), self.most)]
        return Plan(
            [Request(messages=chunk, send=partial(self._send, chunk), parts=halves(chunk)) for chunk in chunks], {}
        )

    async def _send(self, messages: Sequence[Message]) -> Sequence[Result]:
        ids = [message.id for message in messages]
        keys = " ".join(message.key for message in messages)
        key = keys if len(ids) == 1 else hashlib.sha256(keys.encode()).hexdigest()[:16]
        self.sent.append((key, ids))
        on_the_way = self.line()
        answer: Result | None = None
        if on_the_way is None or (self.arrives and on_the_way != LIMITED):
            body = repr([message.envelope for message in messages])
            answer = self.receiver.take(key, ids, body)
        await self.gate.wait()
        result = on_the_way or answer
        assert result is not None
        if isinstance(result, Delivered):
            return [self.each(id_) or result for id_ in ids]
        return [result] * len(ids)


def lines(*results: Result | None) -> Callable[[], Result | None]:
    """What happens to one request after another, then nothing any more."""
    left = list(results)
    return lambda: left.pop(0) if left else None

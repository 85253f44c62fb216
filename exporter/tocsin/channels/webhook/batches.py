"""The webhook channel with `batch`: one request for several notifications."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tocsin.channels.base import Message, Plan, Rejected, Result, Retry
from tocsin.channels.webhook.channel import Draft, Webhook
from tocsin.channels.webhook.request import Target
from tocsin.errors import Reason

_FURTHER = 4.0
"""Seconds within which the further requests of one `send` begin. The dispatcher waits for all of them together, a few
seconds longer than for one."""


class Batches(Webhook):
    """Requests of several notifications each, on kept connections."""

    def batch_size(self, pending: int) -> int:
        return min(pending, self.config.batch_size)

    def plan(self, messages: Sequence[Message]) -> Plan:
        decided, chunks = self._divided(messages)
        by_id = {message.id: message for message in messages}
        return Plan([_Batch(self, chunk, [by_id[draft.id] for draft in chunk]) for chunk in chunks], decided)

    def _divided(self, messages: Sequence[Message]) -> tuple[dict[str, Result], list[list[Draft]]]:
        """The results of what cannot be sent, and what goes in each request."""
        results: dict[str, Result] = {}
        groups: dict[tuple[Target, str], list[Draft]] = {}
        for message in messages:
            draft = self.drafted(message)
            if isinstance(draft, Rejected):
                results[message.id] = draft
            else:
                groups.setdefault((draft.target, draft.kind), []).append(draft)
        return results, [chunk for drafts in groups.values() for chunk in self._chunks(drafts)]

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        results, chunks = self._divided(messages)
        until = asyncio.get_running_loop().time() + _FURTHER
        late = Retry(Reason.TIMEOUT, "not sent yet: what went before it took too long", 0.0, free=True)
        first = True
        for chunk in chunks:
            if first or asyncio.get_running_loop().time() < until:
                results |= await self._post_together(chunk, until)
            else:
                results |= dict.fromkeys((draft.id for draft in chunk), late)
            first = False
        return [results[message.id] for message in messages]

    def _chunks(self, drafts: Sequence[Draft]) -> list[list[Draft]]:
        chunks: list[list[Draft]] = []
        room = 0
        for draft in drafts:
            length = len(draft.body) + 1
            if not chunks or length > room or len(chunks[-1]) >= self.config.batch_size:
                chunks.append([])
                room = self.config.batch_bytes - 1
            chunks[-1].append(draft)
            room -= length
        return chunks

    async def _post_together(self, drafts: Sequence[Draft], until: float) -> dict[str, Result]:
        """One request, whose answer counts for all. What is rejected together is halved until it is clear which ones
        are: a receiver cannot say which of them it does not like."""
        result = await self.post(self.joined(drafts))
        if not isinstance(result, Rejected) or len(drafts) == 1:
            return dict.fromkeys((draft.id for draft in drafts), result)
        results: dict[str, Result] = {}
        middle = len(drafts) // 2
        for half in (drafts[:middle], drafts[middle:]):
            if asyncio.get_running_loop().time() < until:
                results |= await self._post_together(half, until)
            else:
                again = Retry(result.reason, f"rejected together with others: {result.detail}", 0.0)
                results |= dict.fromkeys((draft.id for draft in half), again)
        return results

    def joined(self, drafts: Sequence[Draft]) -> Draft:
        """What goes in one request: one notification, or a batch of them."""
        bodies = [draft.body for draft in drafts]
        body = b"[" + b",".join(bodies) + b"]" if self.config.batch == "array" else b"\n".join(bodies) + b"\n"
        if len(drafts) == 1:
            id_, key = drafts[0].id, drafts[0].key
        else:  # the same ones together are the same request
            id_ = key = hashlib.sha256(" ".join(draft.key for draft in drafts).encode()).hexdigest()[:32]
        return Draft(id_, key, drafts[0].target, drafts[0].kind, body)


@dataclass(frozen=True, slots=True)
class _Batch:
    """One request of one notification or of several."""

    channel: Batches
    drafts: Sequence[Draft]
    messages: Sequence[Message]

    async def send(self) -> Sequence[Result]:
        return [await self.channel.post(self.channel.joined(self.drafts))] * len(self.drafts)

    def split(self) -> Sequence[Sequence[Message]]:
        # The receiver cannot say which of them it does not take: halved until that is clear.
        middle = len(self.messages) // 2
        return [self.messages[:middle], self.messages[middle:]]

"""The apprise channel: the outcome of each URL, and sends that hang."""

import asyncio
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import pytest

from support.apprise import at, paths
from support.messages import message
from support.receiver import Answer, Receiver
from support.sending import Build, sent
from support.waiting import until
from tocsin.channels.apprise.services import Service
from tocsin.channels.base import Delivered, Message, Retry
from tocsin.errors import Reason

NO_ANSWER = Retry(Reason.TIMEOUT, "no answer within 0.3 s")
HUNG = Retry(Reason.TIMEOUT, "the previous send to this URL has not ended", 5.0, free=True)


class Slow:
    """A server that answers once `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.paths: list[str] = []
        self.under_way = 0
        self.most_under_way = 0

    def at(self, path: str = "") -> str:
        return f"json://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{path}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        head = await reader.readuntil(b"\r\n\r\n")
        self.paths.append(head.split()[1].decode())
        await self.go.wait()
        self.under_way -= 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go.set()
        await until(lambda: not self.under_way, "all are answered")
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slow]:
    """Services wait longer than the attempts do."""
    monkeypatch.setattr("tocsin.channels.apprise.channel.Service", lambda url, _: Service(url, 20.0))
    async with Slow() as server:
        yield server


async def test_failed_service_is_retried_with_the_reason(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=500))
    channel = build(at(receiver))
    result = await sent(channel)
    assert isinstance(result, Retry)
    assert result.reason is Reason.SERVER_ERROR
    assert result.detail.startswith("JSON: ")
    assert "500" in result.detail
    assert await sent(channel) == Delivered()


async def test_only_the_failed_service_is_retried(build: Build, receiver: Receiver) -> None:
    failing = True
    receiver.otherwise = lambda request: Answer(status=503 if failing and request.path == "/b" else 200)
    channel = build(at(receiver, "a"), at(receiver, "b"), at(receiver, "c"))
    for _ in range(2):
        result = await sent(channel)
        assert isinstance(result, Retry)
        assert result.detail.startswith("2 of 3 have it; JSON: ")
    failing = False
    assert await sent(channel) == Delivered()
    assert sorted(paths(receiver)) == ["/a", "/b", "/b", "/b", "/c"]
    assert await sent(channel, message(key="18")) == Delivered()
    assert len(receiver.requests) == 8


async def test_silent_service_delays_no_other(build: Build, receiver: Receiver) -> None:
    receiver.otherwise = lambda request: Answer(hang=request.path == "/slow")
    channel = build(at(receiver, "slow"), at(receiver, "fast"), timeout="1s")
    result = await sent(channel)
    assert result == Retry(Reason.TIMEOUT, "1 of 2 have it; no answer within 1 s")
    assert paths(receiver).count("/fast") == 1


async def test_messages_to_one_url_are_sent_sequentially(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver), concurrency=8)
    results = await channel.send([message(key=str(number)) for number in range(20)])
    assert results == [Delivered()] * 20
    titles = [request.json["title"] for request in receiver.requests]
    assert titles == [f"Fired: Order {number} of Ann is late" for number in range(20)]


async def test_rate_limit_pauses_of_services_are_off(build: Build, receiver: Receiver) -> None:
    channel = build(
        at(receiver), f"tgram://123456789:{'a' * 35}/@room", f"slack://T1JJ3T3L2/A1BRTD4JD/{'b' * 24}/#room"
    )
    assert [service._plugin.request_rate_per_sec for service in channel._services.values()] == [0, 0, 0]


async def test_redirects_are_not_followed(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=307, headers={"location": "/elsewhere"}))
    result = await sent(build(at(receiver)))
    assert isinstance(result, Retry)
    assert paths(receiver) == ["/"]


# Sends that hang.


async def test_late_success_after_timeout_is_not_sent_again(build: Build, slow: Slow) -> None:
    channel = build(slow.at(), timeout="300ms")
    assert await sent(channel) == NO_ANSWER
    assert await sent(channel) == HUNG
    slow.go.set()
    await until(lambda: not channel._sends._tasks, "the thread ends")
    assert await sent(channel) == Delivered()
    assert slow.paths == ["/"]


@pytest.mark.parametrize("path", ["room", "{{ row.room }}"], ids=["given", "of a row"])
async def test_sends_to_one_url_never_overlap_after_timeout(build: Build, slow: Slow, path: str) -> None:
    channel = build(slow.at(path), timeout="300ms")
    room = {"room": ("text", "room")}
    first, second = message(extra=room), message(key="18", extra=room)
    assert await sent(channel, first) == NO_ANSWER
    assert await sent(channel, second) == HUNG
    assert slow.paths == ["/room"]
    slow.go.set()
    await until(lambda: not channel._sends._tasks, "the thread ends")
    assert await channel.send([first, second]) == [Delivered()] * 2
    assert (slow.paths, slow.most_under_way) == (["/room"] * 2, 1)


async def test_message_without_free_slot_costs_no_attempt(build: Build, slow: Slow) -> None:
    channel = build(slow.at(), timeout="300ms")
    no_slot = Retry(Reason.TIMEOUT, "no free slot within 0.3 s", 5.0, free=True)
    assert await channel.send([message(), message(key="18")]) == [NO_ANSWER, no_slot]
    assert slow.paths == ["/"]


async def test_cancelled_attempt_keeps_url_busy_until_send_ends(build: Build, slow: Slow) -> None:
    channel = build(slow.at())
    attempt = asyncio.create_task(sent(channel))
    await until(lambda: slow.paths, "the request")
    attempt.cancel()
    await asyncio.wait({attempt})
    assert await sent(channel, message(key="18")) == HUNG
    slow.go.set()
    await until(lambda: not channel._sends._tasks, "the thread ends")
    assert await sent(channel) == Delivered()
    assert slow.paths == ["/"]


async def test_cancelled_attempt_does_not_repeat_what_arrived(build: Build, slow: Slow, receiver: Receiver) -> None:
    channel = build(at(receiver), slow.at())
    attempt = asyncio.create_task(sent(channel))
    await until(lambda: slow.paths and channel._settled, "one has answered, the other has the request")
    assert attempt.cancel()
    await asyncio.wait({attempt})
    assert await sent(channel) == Retry(HUNG.reason, f"1 of 2 have it; {HUNG.detail}", 5.0, free=True)
    slow.go.set()
    await until(lambda: not channel._sends._tasks, "the thread ends")
    assert await sent(channel) == Delivered()
    assert (paths(receiver), slow.paths, channel._settled) == (["/"], ["/"], {})


async def test_hanging_sends_are_limited_by_concurrency(build: Build, slow: Slow, receiver: Receiver) -> None:
    channel = build(slow.at("{{ row.who }}"), at(receiver), timeout="1s", concurrency=2)

    def to(who: str) -> Message:
        return message(key=who, extra={"who": ("text", who)})

    no_answer = Retry(Reason.TIMEOUT, "1 of 2 have it; no answer within 1 s")
    assert await channel.send([to("ann"), to("bob")]) == [no_answer] * 2
    threads = threading.active_count()
    full = Retry(Reason.TIMEOUT, "1 of 2 have it; 2 sends hang; no more are started", 5.0, free=True)
    assert [await sent(channel, to("cy")) for _ in range(3)] == [full] * 3
    assert (sorted(slow.paths), len(receiver.requests), threading.active_count()) == (["/ann", "/bob"], 3, threads)
    slow.go.set()
    await until(lambda: not channel._sends._tasks, "the threads end")
    assert await channel.send([to("ann"), to("bob"), to("cy")]) == [Delivered()] * 3
    assert sorted(slow.paths) == ["/ann", "/bob", "/cy"]


async def test_hanging_send_blocks_neither_close_nor_exit(build: Build, slow: Slow) -> None:
    channel = build(slow.at(), timeout="300ms")
    await sent(channel)
    await channel.close()
    assert {thread.daemon for thread in threading.enumerate() if thread.name.startswith("tocsin-chat")} == {True}

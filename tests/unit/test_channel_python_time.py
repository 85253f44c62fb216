"""Handlers written in Python that are slow, hang, or still run at shutdown."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from support.messages import message
from support.python_channels import channel
from support.sending import sent
from support.waiting import until
from tocsin.channels.base import Delivered, Retry
from tocsin.channels.threads import Threads
from tocsin.errors import Reason
from tocsin.handlers import Envelope

# Timeouts.


class Stuck:
    """A handler that ends once it is released."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[int] = []
        self.at_once = 0
        self.most_at_once = 0
        self.answer: object = None
        self._lock = threading.Lock()

    def __call__(self, envelope: Envelope) -> object:
        with self._lock:
            self.calls.append(envelope["row"]["order_id"])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(30)
        with self._lock:
            self.at_once -= 1
        return self.answer


TIMED_OUT = Retry(Reason.TIMEOUT, "the handler did not end within 0.1 s")


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    yield made
    made.go.set()


async def test_hanging_handler_times_out_and_keeps_slot(stuck: Stuck) -> None:
    """Its notification is not passed a second time meanwhile."""
    made = channel(stuck, timeout="100ms", concurrency=2)
    with capture_logs() as logged:
        assert await sent(made) == TIMED_OUT
    assert [(line["event"], line["hanging"], line["concurrency"]) for line in logged] == [
        ("a handler hangs; its call keeps its slot until it ends", 1, 2)
    ]
    again = await sent(made)
    assert again == Retry(Reason.TIMEOUT, "the previous call for this notification has not ended", after=5.0, free=True)
    assert len(stuck.calls) == 1
    stuck.go.set()
    await made.close()


async def test_no_call_starts_while_all_threads_hang(stuck: Stuck) -> None:
    made = channel(stuck, timeout="100ms", concurrency=2)
    await made.send([message(key="1"), message(key="2")])
    before = threading.active_count()
    [result] = await made.send([message(key="3")])
    assert result == Retry(
        Reason.TIMEOUT, "2 of 2 calls hang in the handler; no more are started", after=5.0, free=True
    )
    assert (threading.active_count(), sorted(stuck.calls)) == (before, [1, 2])
    stuck.go.set()
    await until(lambda: not made._running)
    assert await sent(made, message(key="3")) == Delivered()
    await made.close()


async def test_result_of_late_call_answers_next_attempt(stuck: Stuck) -> None:
    made = channel(stuck, timeout="100ms")
    stuck.answer = "ticket 17"
    await sent(made)
    stuck.go.set()
    await until(lambda: not made._running)
    assert await sent(made) == Delivered("ticket 17")
    assert len(stuck.calls) == 1
    await made.close()


async def test_threads_never_exceed_concurrency() -> None:
    stuck = Stuck()
    made = channel(stuck, concurrency=3)
    sending = asyncio.create_task(made.send([message(key=str(number)) for number in range(9)]))
    await until(lambda: stuck.at_once == 3)
    stuck.go.set()
    assert list(await sending) == [Delivered()] * 9
    assert (stuck.most_at_once, len(stuck.calls)) == (3, 9)
    await made.close()


async def test_async_handler_of_cancelled_attempt_is_cancelled_once() -> None:
    events = []

    async def slow(envelope: Envelope) -> None:
        events.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("ended")

    made = channel(slow, timeout="20s")
    attempt = asyncio.create_task(sent(made))
    await until(lambda: events)
    attempt.cancel()
    await asyncio.wait({attempt})
    await until(lambda: not made._running)
    assert events == ["begun", "ended"]


class Awaited:
    """An awaitable result of a handler; it does not end by itself."""

    def __init__(self) -> None:
        self.future = asyncio.get_running_loop().create_future()
        self.events: list[str] = []

    async def coroutine(self) -> None:
        self.events.append("begun")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.events.append("ended")


async def test_coroutine_or_future_is_cancelled_at_timeout() -> None:
    """Of an `async` handler, or returned by another one."""
    awaited = Awaited()
    for handler in (lambda _: awaited.coroutine(), lambda _: awaited.future):
        made = channel(handler, timeout="1s")
        assert await sent(made) == Retry(Reason.TIMEOUT, "the handler did not end within 1 s")
        assert not made._running
    assert awaited.events == ["begun", "ended"]
    assert awaited.future.cancelled()


@pytest.mark.parametrize("what", ["coroutine", "future"])
async def test_awaitable_returned_after_timeout_is_not_awaited(stuck: Stuck, what: str) -> None:
    awaited = Awaited()
    stuck.answer = awaited.coroutine() if what == "coroutine" else awaited.future
    made = channel(stuck, timeout="100ms")
    await sent(made)
    stuck.go.set()
    await until(lambda: not made._running)
    assert awaited.events == []
    assert awaited.future.cancelled() == (what == "future")
    assert made._late == {}


# Shutdown.


async def test_close_waits_for_running_calls(stuck: Stuck) -> None:
    made = channel(stuck)
    sending = asyncio.create_task(made.send([message()]))
    await until(lambda: stuck.at_once)
    closing = asyncio.create_task(made.close())
    await asyncio.sleep(0)
    assert not closing.done()
    stuck.go.set()
    await closing
    assert await sending == [Delivered()]


async def test_close_abandons_hanging_handlers(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.channels.python.channel._DRAIN", 0.02)
    made = channel(stuck, timeout="100ms")
    with capture_logs() as logged:
        await sent(made)
        await made.close()
    assert (logged[-1]["event"], logged[-1]["calls"]) == ("handlers still run and are abandoned", 1)
    assert {thread.daemon for thread in threading.enumerate() if thread.name.startswith("tocsin-own")} == {True}


# The threads, which Apprise uses too.


@pytest.mark.parametrize("error", [ValueError, SystemExit])
async def test_raising_work_becomes_runtime_error_and_keeps_thread(error: type[BaseException]) -> None:
    threads = Threads("test")
    thread = await threads.run(threading.get_ident)

    def break_() -> None:
        raise error("secret")

    with pytest.raises(RuntimeError, match=f"^the work of a thread raised {error.__name__}$"):
        await asyncio.wait_for(threads.run(break_), 20)
    assert await asyncio.wait_for(threads.run(threading.get_ident), 20) == thread
    threads.close()

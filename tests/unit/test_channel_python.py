"""Handlers written in Python: what is taken for one, how it is called, and what comes of it."""

import asyncio
import functools
import importlib.metadata
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.messages import message
from support.waiting import until
from tocsin.channels import Delivered, Message, Rejected, Result, Retry
from tocsin.channels.python import Config, Options, build, problems
from tocsin.channels.python.channel import Python
from tocsin.errors import ConfigError, Reason
from tocsin.handlers import Envelope, Reject
from tocsin.handlers import Retry as Later

CALLS: list[Any] = []


class Kept:
    """Handlers in the shapes that Python has."""

    def method(self, envelope: Envelope) -> None:
        CALLS.append(envelope)

    async def coroutine(self, envelope: Envelope) -> None:
        CALLS.append(envelope)

    def __call__(self, envelope: Envelope) -> None:
        CALLS.append(envelope)

    @staticmethod
    def static(envelope: Envelope) -> None:
        CALLS.append(envelope)


class Awaited:
    async def __call__(self, envelope: Envelope) -> None:
        CALLS.append(envelope)


def function(envelope: Envelope) -> None:
    CALLS.append(envelope)


async def coroutine(envelope: Envelope) -> None:
    CALLS.append(envelope)


def hidden_coroutine(envelope: Envelope) -> Any:
    return coroutine(envelope)


def two(first: str, envelope: Envelope) -> None:
    CALLS.append(envelope)


def generator(envelope: Envelope) -> Iterator[None]:
    yield


async def async_generator(envelope: Envelope) -> AsyncIterator[None]:
    yield


def nothing() -> None: ...


def keyword_only(*, envelope: Envelope) -> None: ...


def asking(envelope: Envelope, message: Message, *, log: Any, room: str, token: str = "none") -> str:
    log.info("called")
    return f"{message.id == envelope['id']} {room} {token}"


def named_message(message: Envelope) -> str:
    return message["alert"]


kept = Kept()
awaited = Awaited()
partial = functools.partial(two, "first")
partial_coroutine = functools.partial(coroutine)
value = 5


def channel(handler: str | Callable[..., Any], *, alert: dict[str, Any] | None = None, **settings: Any) -> Python:
    """A channel for a handler, by name or as it is."""
    if not isinstance(handler, str):
        module = ModuleType("handlers_of_a_test")
        module.handler = handler  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        handler = f"{module.__name__}:handler"
    config = Config.model_validate({"type": "python", "handler": handler, **settings})
    options = {name: getattr(config, name) for name in ("arguments", "secret_arguments")}
    return build("own", config, {"late": Options(**{**options, **(alert or {})})})


def refused(**settings: Any) -> str:
    """Why a channel cannot be built."""
    with pytest.raises(ConfigError) as found:
        build("own", Config.model_validate({"type": "python", **settings}), {})
    return str(found.value)


async def sent(to: Python, what: Message | None = None) -> Result:
    [result] = await to.send([what or message()])
    return result


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


# What is taken for a handler.


@pytest.mark.parametrize(
    "name",
    [
        "function",
        "coroutine",
        "hidden_coroutine",
        "kept",
        "kept.method",
        "kept.coroutine",
        "Kept.static",
        "awaited",
        "partial",
        "partial_coroutine",
    ],
)
async def test_whatever_can_be_called_with_one_argument_is_a_handler(name: str) -> None:
    what = message()
    made = channel(f"{__name__}:{name}")
    assert await sent(made, what) == Delivered()
    assert [what.envelope] == CALLS
    await made.close()


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("no_such_module:f", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:nothing_there", "/json/__init__.py) has no nothing_there"),
        ("sys:nothing_there", "the module sys (built into Python) has no nothing_there"),
        (f"{__name__}:value", "is no function but int, which cannot be called"),
        (f"{__name__}:Kept", "is a class; name a function, or an object made of it"),
        (f"{__name__}:generator", "is a generator, whose call does nothing by itself; return instead of yield"),
        (f"{__name__}:async_generator", "is a generator"),
        (f"{__name__}:nothing", "nothing() -> None cannot be called with (envelope): too many positional arguments"),
        (f"{__name__}:keyword_only", "cannot be called with (envelope): too many positional arguments"),
        (f"{__name__}:two", "cannot be called with (envelope): missing a required argument: 'envelope'"),
        ("unknown", "no installed package has an entry point 'unknown' in the group tocsin.handlers (there: none)"),
    ],
)
def test_what_is_no_handler_is_refused_with_the_reason(handler: str, why: str) -> None:
    text = refused(handler=handler)
    assert text.startswith("channels.own.handler: ")
    assert why in text
    assert [str(one) for one in problems("own", Config(type="python", handler=handler), {})] == [text]


@pytest.mark.parametrize("handler", ["", "a b", "a:", ":f", "a:b:c", "../a:f", "a:f()", "a:1"])
def test_a_name_that_can_be_none_is_refused_without_importing_anything(handler: str) -> None:
    with pytest.raises(ValueError, match="handler"):
        Config(type="python", handler=handler)


def test_reading_the_configuration_imports_nothing() -> None:
    assert Config(type="python", handler="no_such_module:f").handler == "no_such_module:f"


def test_a_module_that_fails_is_told_in_one_line_and_its_traceback_to_the_debug_log(tmp_path: Path) -> None:
    (tmp_path / "failing_handlers.py").write_text("import sys\nsys.exit('not\\ntoday')\n")
    with capture_logs() as logged:
        text = refused(handler="failing_handlers:f", path=str(tmp_path))
    assert text == "channels.own.handler: cannot import failing_handlers: SystemExit: not today"
    assert [(line["log_level"], line["exc_info"]) for line in logged] == [("debug", True)]


def test_a_local_module_is_found_in_its_directory_and_takes_no_other_ones_place(tmp_path: Path) -> None:
    (tmp_path / "local_handlers.py").write_text("def f(envelope): ...\n")
    (tmp_path / "antigravity.py").write_text("def f(envelope): ...\n")
    assert repr(channel("local_handlers:f", path=str(tmp_path))) == "Python('own')"
    assert refused(handler="this:f", path=f"{tmp_path}/none").endswith(f"path: there is no directory {tmp_path}/none")
    assert sys.path[-1] == str(tmp_path)
    channel("local_handlers:f", path=str(tmp_path))
    assert sys.path.count(str(tmp_path)) == 1
    sys.path.remove(str(tmp_path))


async def test_an_entry_point_of_a_package_is_a_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pager-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: pager\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        f"[tocsin.handlers]\npage = {__name__}:function\nsame = {__name__}:function\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert await sent(channel("page")) == Delivered()
    assert len(CALLS) == 1
    assert "(there: page, same)" in refused(handler="other")
    assert importlib.metadata.entry_points(group="tocsin.handlers").names == {"page", "same"}


def test_a_handler_without_a_name_is_no_trouble() -> None:
    for name in ("kept", "partial", "awaited"):
        assert not hasattr(globals()[name], "__name__")
        channel(f"{__name__}:{name}")


# What it is called with.


async def test_a_handler_gets_what_its_signature_asks_for() -> None:
    made = channel(
        f"{__name__}:asking",
        arguments={"room": "ops"},
        secret_arguments={"token": "t0ken"},
        alert={"arguments": {"room": "dev"}},
    )
    with capture_logs() as logged:
        assert await sent(made) == Delivered("True dev ***")
    assert logged == [{"event": "called", "log_level": "info", "channel": "own", "notification": message().id}]
    assert await sent(channel(f"{__name__}:named_message")) == Delivered("late")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "missing a required argument: 'room'"),
        ({"arguments": {"room": "x", "colour": "red"}}, "got an unexpected keyword argument 'colour'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_for_each_alert(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as found:
        channel(f"{__name__}:asking", **settings)
    [problem] = found.value.problems
    assert problem.path == "alerts.late.notify"
    assert problem.message.startswith("channel own: ")
    assert problem.message.endswith(why)


async def test_what_a_handler_changes_is_its_own() -> None:
    seen = []

    def greedy(envelope: Envelope, message: Message, *, bag: list[str]) -> bool:
        seen.append((dict(envelope["labels"]), list(bag)))
        envelope["labels"].clear()
        message.envelope["row"].clear()
        bag.append("x")
        return False

    what, made = message(), channel(greedy, arguments={"bag": ["a"]})
    await sent(made, what)
    await sent(made, what)
    assert seen == [({"customer": "Ann"}, ["a"])] * 2
    assert what.envelope == message().envelope


async def test_no_secret_argument_is_told() -> None:
    def talkative(envelope: Envelope, *, token: str) -> None:
        raise ValueError(f"the token {token} is bad")

    made = channel(talkative, secret_arguments={"token": "hunter2000"})
    assert await sent(made) == Retry(Reason.INTERNAL, "ValueError: the token *** is bad")
    config = Config(type="python", handler="a:b", secret_arguments={"token": "hunter2000"})
    assert "hunter2000" not in repr(config)


# What comes of it.


def raising(error: BaseException) -> Callable[[Envelope], None]:
    def handler(envelope: Envelope) -> None:
        raise error

    return handler


def raising_later(error: BaseException) -> Callable[[Envelope], Any]:
    async def handler(envelope: Envelope) -> None:
        raise error

    return handler


class Wordless(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        (None, Delivered()),
        (True, Delivered()),
        ("ticket\n 17", Delivered("ticket 17")),
        ({"anything": "else"}, Delivered()),
        (0, Delivered()),
        (False, Retry(Reason.NOT_PROCESSED, "the handler returned False")),
    ],
)
async def test_what_a_handler_returns_is_heeded(returned: object, result: Result) -> None:
    async def later(envelope: Envelope) -> object:
        return returned

    assert await sent(channel(lambda _envelope: returned)) == result
    assert await sent(channel(later)) == result


@pytest.mark.parametrize("raised", [raising, raising_later])
@pytest.mark.parametrize(
    ("error", "result"),
    [
        (ValueError("no\nroom"), Retry(Reason.INTERNAL, "ValueError: no room")),
        (KeyError(), Retry(Reason.INTERNAL, "KeyError")),
        (TimeoutError("slow"), Retry(Reason.TIMEOUT, "TimeoutError: slow")),
        (
            ConnectionRefusedError(111, "refused"),
            Retry(Reason.CONNECTION, "ConnectionRefusedError: [Errno 111] refused"),
        ),
        (SystemExit(1), Retry(Reason.INTERNAL, "SystemExit: 1")),
        (KeyboardInterrupt(), Retry(Reason.INTERNAL, "KeyboardInterrupt")),
        (asyncio.CancelledError(), Retry(Reason.INTERNAL, "CancelledError")),
        (Wordless(), Retry(Reason.INTERNAL, "Wordless")),
        (Reject("unknown customer"), Rejected(Reason.REJECTED, "unknown customer")),
        (Reject(), Rejected(Reason.REJECTED, "the handler rejects it")),
        (Later("busy"), Retry(Reason.NOT_PROCESSED, "busy")),
        (Later("busy", after=30), Retry(Reason.NOT_PROCESSED, "busy", 30.0, free=True)),
        (Later(after=float("nan")), Retry(Reason.NOT_PROCESSED, "the handler asks to be called again")),
        (Later(after=-1), Retry(Reason.NOT_PROCESSED, "the handler asks to be called again")),
        (Later(after=1e9), Retry(Reason.NOT_PROCESSED, "the handler asks to be called again", 86400.0, free=True)),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_handler_raises_is_heeded(
    raised: Callable[[BaseException], Callable[..., Any]], error: BaseException, result: Result
) -> None:
    assert await sent(channel(raised(error))) == result


async def test_an_exception_is_told_in_one_short_line_and_its_traceback_to_the_debug_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logged:
        result = await sent(channel(raising(ValueError("long\n" * 1000))))
    assert isinstance(result, Retry)
    assert len(result.detail) == 200
    assert result.detail.isprintable()
    [line] = logged
    assert (line["log_level"], line["channel"], type(line["exc_info"])) == ("debug", "own", ValueError)


# Time.


class Stuck:
    """A handler that ends when it is let."""

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


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    yield made
    made.go.set()


async def test_a_handler_that_hangs_is_timed_out_and_its_thread_counted_as_occupied(stuck: Stuck) -> None:
    made = channel(stuck, timeout="20ms", concurrency=2)
    with capture_logs() as logged:
        assert await sent(made) == Retry(Reason.TIMEOUT, "the handler did not end within 0.02 s")
    assert [(line["event"], line["hanging"], line["concurrency"]) for line in logged] == [
        ("a handler hangs; its call keeps its place until it ends", 1, 2)
    ]
    stuck.go.set()
    await made.close()


async def test_one_notification_is_never_in_two_calls_at_once(stuck: Stuck) -> None:
    made = channel(stuck, timeout="20ms")
    await sent(made)
    again = await sent(made)
    assert again == Retry(
        Reason.TIMEOUT, "the call before, for the same notification, has not ended", after=5.0, free=True
    )
    assert len(stuck.calls) == 1
    stuck.go.set()
    await made.close()


async def test_when_all_threads_hang_the_channel_says_so_and_begins_no_more(stuck: Stuck) -> None:
    made = channel(stuck, timeout="20ms", concurrency=2)
    await made.send([message(key="1"), message(key="2")])
    before = threading.active_count()
    [result] = await made.send([message(key="3")])
    assert result == Retry(Reason.TIMEOUT, "2 of 2 calls hang in the handler; no more are begun", after=5.0, free=True)
    assert (threading.active_count(), sorted(stuck.calls)) == (before, [1, 2])
    stuck.go.set()
    await until(lambda: not made._running)
    assert await sent(made, message(key="3")) == Delivered()
    await made.close()


async def test_what_a_late_call_said_is_the_answer_to_the_next_attempt(stuck: Stuck) -> None:
    made = channel(stuck, timeout="20ms")
    stuck.answer = "ticket 17"
    await sent(made)
    stuck.go.set()
    await until(lambda: not made._running)
    assert await sent(made) == Delivered("ticket 17")
    assert len(stuck.calls) == 1
    stuck.answer = False
    assert await sent(made) == Retry(Reason.NOT_PROCESSED, "the handler returned False")
    await made.close()


async def test_there_are_never_more_threads_than_concurrency() -> None:
    stuck = Stuck()
    made = channel(stuck, concurrency=3)
    sending = asyncio.create_task(made.send([message(key=str(number)) for number in range(9)]))
    await until(lambda: stuck.at_once == 3)
    stuck.go.set()
    assert list(await sending) == [Delivered()] * 9
    assert (stuck.most_at_once, len(stuck.calls)) == (3, 9)
    await made.close()


async def test_an_async_handler_that_exceeds_its_time_is_cancelled() -> None:
    ended = []

    async def slow(envelope: Envelope) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    made = channel(slow, timeout="20ms")
    assert await sent(made) == Retry(Reason.TIMEOUT, "the handler did not end within 0.02 s")
    assert ended == ["cancelled"]
    assert await sent(made) == Retry(Reason.TIMEOUT, "the handler did not end within 0.02 s")


async def test_an_async_handler_that_will_not_be_cancelled_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.channels.python.channel._CANCELLED", 0.01)
    go = asyncio.Event()

    async def stubborn(envelope: Envelope) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    made = channel(stubborn, timeout="20ms", concurrency=1)
    assert await sent(made) == Retry(Reason.TIMEOUT, "the handler did not end within 0.02 s")
    again = await sent(made, message(key="2"))
    assert isinstance(again, Retry)
    assert again.detail == "1 of 1 calls hang in the handler; no more are begun"
    go.set()
    await made.close()


# The end.


async def test_the_end_waits_for_calls_under_way(stuck: Stuck) -> None:
    made = channel(stuck)
    sending = asyncio.create_task(made.send([message()]))
    await until(lambda: stuck.at_once)
    closing = asyncio.create_task(made.close())
    await asyncio.sleep(0)
    assert not closing.done()
    stuck.go.set()
    await closing
    assert await sending == [Delivered()]


async def test_the_end_does_not_wait_for_ever(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.channels.python.channel._DRAIN", 0.02)
    made = channel(stuck, timeout="20ms")
    with capture_logs() as logged:
        await sent(made)
        await made.close()
    assert (logged[-1]["event"], logged[-1]["calls"]) == ("handlers still run and are left behind", 1)
    assert {thread.daemon for thread in threading.enumerate() if thread.name.startswith("tocsin-own")} == {True}

"""Handlers written in Python: their arguments and results."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.messages import message
from support.python_channels import channel
from support.sending import sent
from tocsin.channels.base import Delivered, Message, Rejected, Result, Retry
from tocsin.channels.python import Config
from tocsin.errors import ConfigError, Reason
from tocsin.handlers import Envelope, Reject
from tocsin.handlers import Retry as Later


def asking(envelope: Envelope, message: Message, *, log: Any, room: str, token: str = "none") -> str:
    log.info("called")
    return f"{message.id == envelope['id']} {room} {token}"


def named_message(message: Envelope) -> str:
    return message["alert"]


# Arguments.


async def test_handler_gets_arguments_of_its_signature() -> None:
    made = channel(
        f"{__name__}:asking",
        arguments={"room": "ops"},
        secret_arguments={"token": "t0ken"},
        alert={"arguments": {"room": "dev"}},
    )
    with capture_logs() as logged:
        assert await sent(made) == Delivered("True dev <secret>")
    assert logged == [{"event": "called", "log_level": "info", "channel": "own", "notification": message().id}]
    assert await sent(channel(f"{__name__}:named_message")) == Delivered("late")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "missing a required argument: 'room'"),
        ({"arguments": {"room": "x", "colour": "red"}}, "got an unexpected keyword argument 'colour'"),
    ],
)
def test_unfit_arguments_are_refused_per_alert(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as found:
        channel(f"{__name__}:asking", **settings)
    [problem] = found.value.problems
    assert problem.path == "alerts.late.notify"
    assert problem.message.startswith("channel own: ")
    assert problem.message.endswith(why)


async def test_changes_by_handler_do_not_leak() -> None:
    seen = []

    def mutating(envelope: Envelope, message: Message, *, bag: list[str]) -> bool:
        seen.append((dict(envelope["labels"]), list(bag)))
        envelope["labels"].clear()
        message.envelope["row"].clear()
        bag.append("x")
        return False

    what, made = message(), channel(mutating, arguments={"bag": ["a"]})
    await sent(made, what)
    await sent(made, what)
    assert seen == [({"customer": "Ann"}, ["a"])] * 2
    assert what.envelope == message().envelope


async def test_secret_argument_is_redacted() -> None:
    def leaking(envelope: Envelope, *, token: str) -> None:
        raise ValueError(f"the token {token} is bad")

    made = channel(leaking, secret_arguments={"token": "hunter2000"})
    assert await sent(made) == Retry(Reason.INTERNAL, "ValueError: the token <secret> is bad")
    config = Config(type="python", handler="a:b", secret_arguments={"token": "hunter2000"})
    assert "hunter2000" not in repr(config)


# Results.


def raising(error: BaseException) -> Callable[[Envelope], None]:
    def handler(envelope: Envelope) -> None:
        raise error

    return handler


def raising_later(error: BaseException) -> Callable[[Envelope], Any]:
    async def handler(envelope: Envelope) -> None:
        raise error

    return handler


class Unprintable(Exception):  # noqa: N818
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
async def test_return_value_of_handler_decides_result(returned: object, result: Result) -> None:
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
        (Unprintable(), Retry(Reason.INTERNAL, "Unprintable")),
        (Reject("unknown customer"), Rejected(Reason.REJECTED, "unknown customer")),
        (Reject(), Rejected(Reason.REJECTED, "the handler rejected it")),
        (Later("busy"), Retry(Reason.NOT_PROCESSED, "busy")),
        (Later("busy", after=30), Retry(Reason.NOT_PROCESSED, "busy", 30.0, free=True)),
        (Later(after=float("nan")), Retry(Reason.NOT_PROCESSED, "the handler asked for a retry")),
        (Later(after=-1), Retry(Reason.NOT_PROCESSED, "the handler asked for a retry")),
        (Later(after=1e9), Retry(Reason.NOT_PROCESSED, "the handler asked for a retry", 86400.0, free=True)),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_exception_of_handler_decides_result(
    raised: Callable[[BaseException], Callable[..., Any]], error: BaseException, result: Result
) -> None:
    assert await sent(channel(raised(error))) == result


async def test_exception_becomes_one_line_with_debug_traceback(
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

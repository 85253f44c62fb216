"""Handlers written in Python: which are accepted, their arguments and their results."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.messages import message
from support.python_channels import channel
from support.sending import sent
from tocsin.channels.base import Delivered, Message, Rejected, Result, Retry
from tocsin.channels.python import Config, build
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


class Generating:
    def __call__(self, envelope: Envelope) -> Iterator[None]:
        yield


def function(envelope: Envelope) -> None:
    CALLS.append(envelope)


async def coroutine(envelope: Envelope) -> None:
    CALLS.append(envelope)


def two(first: str, envelope: Envelope) -> None:
    CALLS.append(envelope)


def generator(envelope: Envelope) -> Iterator[None]:
    yield


async def async_generator(envelope: Envelope) -> AsyncIterator[None]:
    yield


def keyword_only(*, envelope: Envelope) -> None: ...


def asking(envelope: Envelope, message: Message, *, log: Any, room: str, token: str = "none") -> str:
    log.info("called")
    return f"{message.id == envelope['id']} {room} {token}"


def named_message(message: Envelope) -> str:
    return message["alert"]


kept, awaited, generating = Kept(), Awaited(), Generating()
partial = functools.partial(two, "first")
value = 5


def refused(**settings: Any) -> str:
    """Why a channel cannot be built."""
    with pytest.raises(ConfigError) as found:
        build("own", Config.model_validate({"type": "python", **settings}), {})
    return str(found.value)


# Loading.


@pytest.mark.parametrize(
    "name",
    ["function", "coroutine", "kept", "kept.method", "kept.coroutine", "Kept.static", "awaited", "partial"],
)
async def test_any_callable_of_one_argument_is_handler(name: str) -> None:
    """Also one without a `__name__`."""
    CALLS.clear()
    what, made = message(), channel(f"{__name__}:{name}")
    assert await sent(made, what) == Delivered()
    assert [what.envelope] == CALLS
    await made.close()


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("no_such_module:f", "cannot import no_such_module:f: ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:nothing_there", "AttributeError: module 'json' has no attribute 'nothing_there'"),
        (f"{__name__}:value", "is a int, which cannot be called"),
        (f"{__name__}:Kept", "is a class; name a function, or an object made of it"),
        (f"{__name__}:generator", "is a generator, whose call runs nothing; use return instead of yield"),
        (f"{__name__}:async_generator", "is a generator"),
        (f"{__name__}:generating", "is a generator"),
        (f"{__name__}:keyword_only", "cannot be called with (envelope): too many positional arguments"),
        (f"{__name__}:two", "cannot be called with (envelope): missing a required argument: 'envelope'"),
        ("unknown", "no installed package has an entry point 'unknown' in the group tocsin.handlers (found: none)"),
    ],
)
def test_invalid_handler_is_refused_with_reason(handler: str, why: str) -> None:
    text = refused(handler=handler)
    assert text.startswith("channels.own.handler: ")
    assert why in text


def test_failed_import_becomes_one_line_with_debug_traceback(tmp_path: Path) -> None:
    (tmp_path / "failing_handlers.py").write_text("import sys\nsys.exit('not\\ntoday')\n")
    with capture_logs() as logged:
        text = refused(handler="failing_handlers:f", path=str(tmp_path))
    assert text == "channels.own.handler: cannot import failing_handlers:f: SystemExit: not today"
    assert [(line["log_level"], line["exc_info"]) for line in logged] == [("debug", True)]


def test_local_module_does_not_shadow_installed_modules(tmp_path: Path) -> None:
    (tmp_path / "local_handlers.py").write_text("def f(envelope): ...\n")
    for _ in range(2):
        assert repr(channel("local_handlers:f", path=str(tmp_path))) == "Python('own')"
    assert (sys.path[-1], sys.path.count(str(tmp_path))) == (str(tmp_path), 1)
    sys.path.remove(str(tmp_path))
    assert refused(handler="this:f", path=f"{tmp_path}/none").endswith(f"path: there is no directory {tmp_path}/none")


async def test_entry_point_of_package_is_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, target in enumerate((__name__, "another")):
        package = tmp_path / f"pager{number}-1.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pager{number}\nVersion: 1\n")
        names = f"page{number} = {target}:function\nsame = {target}:function\n"
        (package / "entry_points.txt").write_text(f"[tocsin.handlers]\n{names}")
    monkeypatch.syspath_prepend(tmp_path)
    assert await sent(channel("page0")) == Delivered()
    assert "(found: page0, page1, same)" in refused(handler="other")
    expected = f"several packages have an entry point 'same'; write one of another:function, {__name__}:function"
    assert expected in refused(handler="same")


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


class Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (None, Delivered()),
        ("ticket\n 17", Delivered("ticket 17")),
        ({"anything": "else"}, Delivered()),
        (0, Delivered()),
        (False, Retry(Reason.NOT_PROCESSED, "the handler returned False")),
        (ValueError("no\nroom"), Retry(Reason.INTERNAL, "ValueError: no room")),
        (KeyError(), Retry(Reason.INTERNAL, "KeyError")),
        (TimeoutError("slow"), Retry(Reason.TIMEOUT, "TimeoutError: slow")),
        (ConnectionRefusedError("no"), Retry(Reason.CONNECTION, "ConnectionRefusedError: no")),
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
    ids=repr,
)
async def test_outcome_of_handler_decides_result(outcome: object, result: Result) -> None:
    def now(_: Envelope) -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def later(envelope: Envelope) -> object:
        return now(envelope)

    for handler in (now, later):
        assert await sent(channel(handler)) == result

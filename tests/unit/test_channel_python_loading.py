"""Handlers written in Python: valid ones, and the reasons why others are refused."""

import functools
import importlib.metadata
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.messages import message
from support.python_channels import channel
from support.sending import sent
from tocsin.channels.base import Delivered
from tocsin.channels.python import Config, build
from tocsin.errors import ConfigError
from tocsin.handlers import Envelope
from tocsin.registry import channel_problems

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


kept = Kept()
awaited = Awaited()
partial = functools.partial(two, "first")
partial_coroutine = functools.partial(coroutine)
value = 5


def refused(**settings: Any) -> str:
    """Why a channel cannot be built."""
    with pytest.raises(ConfigError) as found:
        build("own", Config.model_validate({"type": "python", **settings}), {})
    return str(found.value)


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


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
async def test_any_callable_of_one_argument_is_handler(name: str) -> None:
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
        (f"{__name__}:value", "is a int, which cannot be called"),
        (f"{__name__}:Kept", "is a class; name a function, or an object made of it"),
        (f"{__name__}:generator", "is a generator, whose call runs nothing; use return instead of yield"),
        (f"{__name__}:async_generator", "is a generator"),
        (f"{__name__}:nothing", "nothing() -> None cannot be called with (envelope): too many positional arguments"),
        (f"{__name__}:keyword_only", "cannot be called with (envelope): too many positional arguments"),
        (f"{__name__}:two", "cannot be called with (envelope): missing a required argument: 'envelope'"),
        ("unknown", "no installed package has an entry point 'unknown' in the group tocsin.handlers (found: none)"),
    ],
)
def test_invalid_handler_is_refused_with_reason(handler: str, why: str) -> None:
    text = refused(handler=handler)
    assert text.startswith("channels.own.handler: ")
    assert why in text
    found = channel_problems("python", "own", Config(type="python", handler=handler), {})
    assert [str(one) for one in found] == [text]


@pytest.mark.parametrize("handler", ["", "a b", "a:", ":f", "a:b:c", "../a:f", "a:f()", "a:1"])
def test_malformed_handler_name_is_refused_without_import(handler: str) -> None:
    with pytest.raises(ValueError, match="handler"):
        Config(type="python", handler=handler)


def test_reading_configuration_does_not_import_handler() -> None:
    assert Config(type="python", handler="no_such_module:f").handler == "no_such_module:f"


def test_failed_import_becomes_one_line_with_debug_traceback(tmp_path: Path) -> None:
    (tmp_path / "failing_handlers.py").write_text("import sys\nsys.exit('not\\ntoday')\n")
    with capture_logs() as logged:
        text = refused(handler="failing_handlers:f", path=str(tmp_path))
    assert text == "channels.own.handler: cannot import failing_handlers: SystemExit: not today"
    assert [(line["log_level"], line["exc_info"]) for line in logged] == [("debug", True)]


def test_local_module_does_not_shadow_installed_modules(tmp_path: Path) -> None:
    (tmp_path / "local_handlers.py").write_text("def f(envelope): ...\n")
    (tmp_path / "antigravity.py").write_text("def f(envelope): ...\n")
    assert repr(channel("local_handlers:f", path=str(tmp_path))) == "Python('own')"
    assert refused(handler="this:f", path=f"{tmp_path}/none").endswith(f"path: there is no directory {tmp_path}/none")
    assert sys.path[-1] == str(tmp_path)
    channel("local_handlers:f", path=str(tmp_path))
    assert sys.path.count(str(tmp_path)) == 1
    sys.path.remove(str(tmp_path))


async def test_entry_point_of_package_is_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pager-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: pager\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        f"[tocsin.handlers]\npage = {__name__}:function\nsame = {__name__}:function\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert await sent(channel("page")) == Delivered()
    assert len(CALLS) == 1
    assert "(found: page, same)" in refused(handler="other")
    assert importlib.metadata.entry_points(group="tocsin.handlers").names == {"page", "same"}


def test_handler_without_name_attribute_loads() -> None:
    for name in ("kept", "partial", "awaited"):
        assert not hasattr(globals()[name], "__name__")
        channel(f"{__name__}:{name}")

"""Channels for one test, closed at its end, and the result of one message."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from pydantic import ValidationError

from support.messages import message
from tocsin.channels.base import Message, Result
from tocsin.templates import TemplateError

Build = Callable[..., Any]
"""Makes a channel."""


@asynccontextmanager
async def closing(make: Build) -> AsyncIterator[Build]:
    """`make`, whose channels are closed at the end."""
    made: list[Any] = []

    def build(*args: Any, **settings: Any) -> Any:
        made.append(make(*args, **settings))
        return made[-1]

    yield build
    for channel in made:
        await channel.close()


def codes(error: ValidationError) -> set[str]:
    """The codes of the errors of settings."""
    found = ((one["type"], one.get("ctx", {}).get("error")) for one in error.errors())
    return {wrong.code.value if isinstance(wrong, TemplateError) else type_ for type_, wrong in found}


async def sent(channel: Any, what: Message | None = None) -> Result:
    """The result of one message."""
    [result] = await channel.send([what or message()])
    return cast("Result", result)


def without(monkeypatch: pytest.MonkeyPatch, library: str, *users: str) -> None:
    """As if a library were not installed; `users`: the modules that import it."""
    monkeypatch.setitem(sys.modules, library, cast("Any", None))
    for name in users:
        monkeypatch.delitem(sys.modules, name, raising=False)

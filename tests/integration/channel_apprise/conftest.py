"""Fixtures of the apprise channel: receivers, and channels that are closed after the test."""

import io
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from support.apprise import chat
from support.receiver import Answer, Receiver
from support.sending import Build, closing
from tocsin.channels.apprise.services import Service


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as server:
        yield server


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """A receiver that answers when it is released; services wait longer for it than the attempts do."""
    monkeypatch.setattr("tocsin.channels.apprise.channel.Service", lambda url, _: Service(url, 20.0))
    async with Receiver(lambda _: Answer(hang=True)) as server:
        yield server


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    async with closing(chat) as build:
        yield build


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """The log of the program at level debug, without the lines of the receiver."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    handler.addFilter(lambda record: record.name not in ("aiohttp.access", "asyncio"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)

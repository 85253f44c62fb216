"""Fixtures of the Apprise channel."""

from collections.abc import AsyncIterator

import pytest

from support.apprise import chat
from support.receiver import Receiver
from support.sending import Build, closing


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as server:
        yield server


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    async with closing(chat) as build:
        yield build

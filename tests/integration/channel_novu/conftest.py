"""Fixtures of the Novu channel."""

from collections.abc import AsyncIterator

import pytest

from support.novu import FakeNovu, fake_novu, novu_channel
from support.sending import Build, closing


@pytest.fixture
async def server() -> AsyncIterator[FakeNovu]:
    async with fake_novu() as running:
        yield running


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    async with closing(novu_channel) as build:
        yield build

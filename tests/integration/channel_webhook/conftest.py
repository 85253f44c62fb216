"""Fixtures of the webhook channel."""

from collections.abc import AsyncIterator

import pytest

from support.webhooks import Hooks, hooks


@pytest.fixture
async def hook() -> AsyncIterator[Hooks]:
    async with hooks() as made:
        yield made

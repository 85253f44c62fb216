"""Fixtures of the email channel."""

import functools
from collections.abc import AsyncIterator

import pytest

from support.email_channels import email_channel
from support.sending import Build, closing
from support.smtp import MailServer


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as made:
        yield made


@pytest.fixture
async def build(server: MailServer) -> AsyncIterator[Build]:
    async with closing(functools.partial(email_channel, server)) as build:
        yield build

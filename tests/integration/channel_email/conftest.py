"""Fixtures of the email channel: a mail server on this machine, and channels of the alert `late` to it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.sending import Build, closing
from support.smtp import MailServer
from tocsin.channels import email as kind


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as made:
        yield made


@pytest.fixture
async def build(server: MailServer) -> AsyncIterator[Build]:
    def make(**settings: Any) -> Any:
        """`at`: another server; `own`: options of the alert over its own."""
        at, own = settings.pop("at", server), settings.pop("own", {})
        given = {"from": "Tocsin <alerts@example.com>", "to": ["ann@example.com"], **settings}
        connection = {"type": "email", "host": "127.0.0.1", "port": at.port, "security": "none"}
        config = kind.Config.model_validate({**connection, **given})
        names = {field.alias or name for name, field in kind.Options.model_fields.items()}
        common = {name: value for name, value in given.items() if name in names}
        options = kind.Options.model_validate({**common, **own})
        return kind.build("mail", config, {"late": options}, now=lambda: 1_795_242_600.0)

    async with closing(make) as build:
        yield build

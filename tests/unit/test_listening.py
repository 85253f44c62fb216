"""What wakes the alerts of a source while it cannot listen to NOTIFY."""

import asyncio
from typing import NoReturn

from support.waiting import until
from tocsin.errors import SourceError, SourceReason
from tocsin.sources.listening import Listener
from tocsin.sources.settings import PostgresConfig

CONFIG = PostgresConfig.model_validate(
    {"dsn": "host=db user=x", "notify": ["orders"], "backoff_initial": "1ms", "backoff_max": "1ms"}
)


async def test_failed_attempts_to_listen_wake_no_one() -> None:
    attempts = 0

    def refused() -> NoReturn:
        nonlocal attempts
        attempts += 1
        raise SourceError("refused", SourceReason.CONNECT, server="db", fix="let it in")

    listener, due = Listener("pg", CONFIG, refused), asyncio.Event()
    async with listener.waking(due):
        due.clear()  # as a reading does
        await until(lambda: attempts > 5)
        assert not due.is_set()
        assert "refused, so NOTIFY on orders is not received and rows are read every 10 s; let it in" in listener.note

"""The supervisor of `tocsin run --workers N`; with real workers in `e2e/test_workers.py`."""

import asyncio

from structlog.testing import capture_logs

from support.waiting import until
from tocsin.cli.workers import _Supervisor


async def test_worker_that_cannot_be_started_is_tried_again() -> None:
    """The machine may have too few processes or too little memory left for a while."""
    supervisor = _Supervisor(1, ("/no/such/program",))
    with capture_logs() as logged:
        running = asyncio.create_task(supervisor.run())
        await until(lambda: len([one for one in logged if one["event"] == "a worker cannot be started"]) > 1, "again")
        supervisor._stop()
        assert await running == 0

"""A secret that expires in a running process: its file is changed and SIGHUP sent, and what waited goes out with the
new one."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.receiver import Answer, Received
from support.tocsin import Harness, new_harness, quick_channel
from support.waiting import until

pytestmark = pytest.mark.e2e

OLD, NEW = "expired-token-0001", "renewed-token-0002"


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"))
        yield made


async def test_pending_notifications_use_renewed_token(
    harness: Harness,
) -> None:
    """The token had expired; its successor was written into the file."""

    def renewed(request: Received) -> bool:
        return request.headers["authorization"] == f"Bearer {NEW}"

    harness.receiver.otherwise = lambda request: Answer(status=200 if renewed(request) else 401)
    file = harness.directory / "token"
    file.write_text(f"{OLD}\n")
    harness.config["channels"]["hook"] = quick_channel(
        f"{harness.receiver.url}/hook",
        headers={"Authorization": "Bearer {{ secrets.token }}"},
        secrets={"token_file": str(file)},
    )
    async with harness.run() as tocsin:
        await tocsin.until_metric("tocsin_channel_up", 0, channel="hook")
        await tocsin.until_logged("channel paused", "hook")
        harness.orders.insert(("2", "Bob", "20"))
        await tocsin.until_metric("tocsin_channel_pending", 2, channel="hook")

        file.write_text(f"{NEW}\n")
        tocsin.signal(signal.SIGHUP)
        await until(lambda: sum(map(renewed, harness.receiver.requests)) >= 2, "both are sent with the new token")
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="hook")
        await tocsin.until_metric("tocsin_channel_up", 1, channel="hook")

        accepted = [request for request in harness.receiver.requests if renewed(request)]
        assert [request.json["row"]["id"] for request in accepted] == [1, 2]
        assert {OLD in request.headers["authorization"] for request in harness.receiver.requests[:-2]} == {True}
        first = harness.receiver.requests[0].headers["idempotency-key"]
        assert accepted[0].headers["idempotency-key"] == first, "it is the one that was refused"
        assert not tocsin.logged(OLD)
        assert not tocsin.logged(NEW)

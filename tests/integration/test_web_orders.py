"""Orders given to the port: a reload, a retry, a drop."""

from collections.abc import AsyncIterator

import pytest

from support.overview import FakeOverview
from support.web import DEAD, Start, error, filled, starting

ORDERS = ["/-/reload", f"/api/v1/notifications/{DEAD.id}/retry", f"/api/v1/notifications/{DEAD.id}/drop"]


@pytest.fixture
def overview() -> FakeOverview:
    return filled()


@pytest.fixture
async def start(overview: FakeOverview) -> AsyncIterator[Start]:
    async with starting(overview) as begin:
        yield begin


@pytest.mark.parametrize("path", ORDERS)
async def test_orders_are_refused_unless_they_are_switched_on(start: Start, overview: FakeOverview, path: str) -> None:
    client = await start()
    response = await client.post(path)
    assert response.status == 403
    assert "web: {admin: true}" in await response.text()
    assert (overview.reloads, len(overview.records)) == (0, 2)


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=["other origin", "no origin to speak of", "other site"],
)
async def test_orders_from_the_pages_of_other_sites_are_refused(
    start: Start, overview: FakeOverview, path: str, headers: dict[str, str]
) -> None:
    client = await start(admin=True)
    assert (await client.post(path, headers=headers)).status == 403
    assert (overview.reloads, len(overview.records)) == (0, 2)


async def test_an_order_from_its_own_page_behind_a_proxy_is_taken(start: Start, overview: FakeOverview) -> None:
    client = await start(admin=True)
    headers = {"Origin": "https://tocsin.example", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/-/reload", headers=headers)).status == 200
    assert overview.reloads == 1


async def test_a_reload_is_done_or_says_what_is_wrong(start: Start, overview: FakeOverview) -> None:
    client = await start(admin=True)
    origin = {"Origin": str(client.make_url("/").origin()), "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/-/reload", headers=origin)).status == 200
    overview.problems = ["tocsin.yaml:3: alerts.late.key: no such column"]
    response = await client.post("/-/reload")
    assert response.status == 500
    assert "tocsin.yaml:3: alerts.late.key: no such column\n" in await response.text()
    assert overview.reloads == 2


async def test_a_reload_is_an_order_and_no_page(start: Start) -> None:
    client = await start(admin=True)
    response = await client.get("/-/reload")
    assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_a_dead_letter_is_retried_and_a_pending_notification_dropped(
    start: Start, overview: FakeOverview
) -> None:
    client = await start(admin=True)
    retried = await client.post(f"/api/v1/notifications/{DEAD.id}/retry")
    assert await retried.json() == {"retried": [DEAD.id]}
    refused = await client.post(f"/api/v1/notifications/{'p' * 32}/retry")
    assert refused.status == 409
    assert "neither dead nor dropped" in await error(refused)
    assert (await client.post(f"/api/v1/notifications/{'p' * 32}/drop")).status == 200
    missing = await client.post(f"/api/v1/notifications/{DEAD.id}/drop")
    assert missing.status == 404
    assert DEAD.id in await error(missing)
    assert overview.records == []

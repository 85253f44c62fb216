"""Changes over HTTP: reload, retry, drop."""

from collections.abc import AsyncIterator

import pytest

from support.web import DEAD, PENDING, FakeProcess, Start, error, starting

CHANGES = ["/-/reload", f"/api/v1/notifications/{DEAD.id}/retry", f"/api/v1/notifications/{DEAD.id}/drop"]


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
async def start(process: FakeProcess) -> AsyncIterator[Start]:
    async with starting(process) as begin:
        yield begin


@pytest.mark.parametrize("path", CHANGES)
async def test_changes_are_refused_without_admin(start: Start, process: FakeProcess, path: str) -> None:
    client = await start()
    response = await client.post(path)
    assert response.status == 403
    assert "web: {admin: true}" in await response.text()
    assert (process.reloads, len(process.outbox.records)) == (0, 2)


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=["other origin", "opaque origin", "other site"],
)
async def test_changes_from_other_sites_are_refused(
    start: Start, process: FakeProcess, path: str, headers: dict[str, str]
) -> None:
    client = await start(admin=True)
    assert (await client.post(path, headers=headers)).status == 403
    assert (process.reloads, len(process.outbox.records)) == (0, 2)


async def test_change_from_own_page_behind_proxy_works(start: Start, process: FakeProcess) -> None:
    client = await start(admin=True)
    headers = {"Origin": "https://tocsin.example", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/-/reload", headers=headers)).status == 200
    assert process.reloads == 1


async def test_reload_works_or_lists_the_problems(start: Start, process: FakeProcess) -> None:
    client = await start(admin=True)
    origin = {"Origin": str(client.make_url("/").origin()), "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/-/reload", headers=origin)).status == 200
    process.problems = ["tocsin.yaml:3: alerts.late.key: no such column"]
    response = await client.post("/-/reload")
    assert response.status == 500
    assert "tocsin.yaml:3: alerts.late.key: no such column\n" in await response.text()
    assert process.reloads == 2


async def test_reload_needs_a_post_request(start: Start) -> None:
    client = await start(admin=True)
    response = await client.get("/-/reload")
    assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_retry_of_dead_and_drop_of_pending(start: Start, process: FakeProcess) -> None:
    client = await start(admin=True)
    retried = await client.post(f"/api/v1/notifications/{DEAD.id}/retry")
    assert await retried.json() == {"retried": [DEAD.id]}
    refused = await client.post(f"/api/v1/notifications/{PENDING.id}/retry")
    assert refused.status == 409
    assert "neither dead nor dropped" in await error(refused)
    assert (await client.post(f"/api/v1/notifications/{PENDING.id}/drop")).status == 200
    missing = await client.post(f"/api/v1/notifications/{DEAD.id}/drop")
    assert missing.status == 404
    assert DEAD.id in await error(missing)
    assert process.outbox.records == []

"""The API of silences, in front of a real ledger."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.clock import Clock
from support.ledger import fired
from support.web import Client, FakeProcess, Start, error
from tocsin.ledger.base import Ledger
from tocsin.ledger.silencing import Judged
from tocsin.ledger.sqlite import open_ledger

SILENCE = {"matchers": '{alertname="late",customer=~"A.*"}', "for": "2h", "reason": "the warehouse moves"}


@pytest.fixture
async def ledger(tmp_path: Path, process: FakeProcess) -> AsyncIterator[Ledger]:
    ledger = open_ledger(tmp_path / "tocsin.db", clock=Clock(1_700_000_000.0))
    process.ledger = ledger
    yield ledger
    await ledger.close()


async def test_silence_is_made_listed_shown_and_ended(start: Start, process: FakeProcess, ledger: Ledger) -> None:
    client = await start(admin=True)
    answer = await client.post("/api/v1/silences", json={**SILENCE, "by": "Ann"})
    made = await answer.json()
    assert answer.status == 201
    assert made == {
        "id": made["id"],
        "state": "active",
        "matchers": 'alertname="late", customer=~"A.*"',
        "starts_at": "2023-11-14T22:13:20.000Z",
        "ends_at": "2023-11-15T00:13:20.000Z",
        "reason": "the warehouse moves",
        "by": "Ann",
        "created_at": "2023-11-14T22:13:20.000Z",
        "held": {},
        "closed_at": None,
        "released": 0,
        "dropped": 0,
        "warnings": [],
    }
    del made["warnings"]
    assert process.rescans == 1
    [one] = await fired(ledger, "1")
    await ledger.claim("hook", 10)
    await ledger.withhold("hook", Judged(held={one.seq: made["id"]}, passing=()))
    assert await _get(client, "") == {"silences": [{**made, "held": {"hook": 1}}]}
    assert await _get(client, "?state=expired") == {"silences": []}
    [held] = (await _get(client, f"/{made['id']}"))["notifications"]
    assert (held["id"], held["status"], held["reason"]) == (one.id, "pending", "silenced")
    answer = await client.post(f"/api/v1/silences/{made['id']}/end")
    assert (answer.status, (await answer.json())["state"]) == (200, "expired")
    assert (await client.post(f"/api/v1/silences/{made['id']}/end")).status == 409
    assert (await client.post("/api/v1/silences/none/end")).status == 404


async def test_preview_counts_rows_and_pending(start: Start, ledger: Ledger) -> None:
    await fired(ledger, "1", "2")
    client = await start()
    found = await _get(client, "/preview?matchers=alertname%3Dlate")
    assert (found["matchers"], found["firing"], found["pending"]) == ('alertname="late"', {"late": 2}, {"hook": 2})
    assert [row["fingerprint"] for row in found["rows"]] == ["1" * 32, "2" * 32]
    assert found["unknown_labels"] == []
    found = await _get(client, "/preview?matchers=custmer%3Dnone")
    assert (found["firing"], found["rows"], found["pending"]) == ({}, [], {})
    assert found["unknown_labels"] == ["custmer"]
    assert found["warnings"] == ["no alert of the configuration has the label custmer; did you mean customer?"]


async def test_silence_with_a_mistyped_name_is_made_with_a_warning(start: Start, ledger: Ledger) -> None:
    """An alert of that name may still come."""
    client = await start(admin=True)
    made = await (await client.post("/api/v1/silences", json={**SILENCE, "matchers": "alertname=lata"})).json()
    assert [one.id for one in await ledger.list_silences()] == [made["id"]]
    assert made["warnings"] == ['no alert of the configuration matches alertname="lata"; did you mean late?']


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({**SILENCE, "matchers": "a=b}"}, "at character 4"),
        ({**SILENCE, "matchers": 'customer=~".*"'}, "nearly all of them"),
        ({**SILENCE, "matchers": "{}"}, "no matcher"),
        ({**SILENCE, "reason": " "}, "the reason is empty"),
        ({**SILENCE, "for": "2 hours"}, "'2 hours' is not a duration"),
        ({**SILENCE, "for": None}, "say when the silence ends"),
        ({**SILENCE, "ends_at": "2024-01-01T00:00Z"}, "either how long it lasts, or its end"),
        ({**SILENCE, "for": None, "ends_at": "2024-01-01 00:00"}, "with its zone"),
        ({**SILENCE, "for": None, "ends_at": "2023-01-01T00:00Z"}, "has ended already"),
        ({**SILENCE, "until": "5m"}, "until: Extra inputs"),
        ({"matchers": "a=b", "for": "5m"}, "reason: Field required"),
        ([], "the body is not a silence"),
    ],
)
async def test_wrong_silence_is_one_clear_error(start: Start, ledger: Ledger, body: object, expected: str) -> None:
    client = await start(admin=True)
    answer = await client.post("/api/v1/silences", json=body)
    assert answer.status == 400
    assert expected in await error(answer)
    assert await ledger.list_silences() == []


async def test_only_admin_changes_silences(start: Start, ledger: Ledger) -> None:
    client = await start()
    assert (await client.post("/api/v1/silences", json=SILENCE)).status == 403
    assert (await client.post("/api/v1/silences/s/end")).status == 403
    assert (await client.post("/api/v1/silences", data="{")).status == 403
    client = await start(admin=True)
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert (await client.post("/api/v1/silences", json=SILENCE, headers=foreign)).status == 403
    assert "not JSON" in await error(await client.post("/api/v1/silences", data="{"))
    assert await ledger.list_silences() == []


async def _get(client: Client, path: str) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/silences{path}")
    assert answer.status == 200, await answer.text()
    found: dict[str, Any] = await answer.json()
    return found

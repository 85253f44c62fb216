"""Routes by condition, end to end: a view, the process, a receiver, and the history."""

import json
from typing import Any

import pytest

from support.tocsin import Harness, TocsinProcess, command, quick_channel
from support.waiting import until_some

pytestmark = pytest.mark.e2e


def notified(harness: Harness, path: str) -> list[tuple[str, float]]:
    """Kind and amount of each notification at a path of the receiver, repeats of one id left out."""
    first = {request.json["id"]: request.json for request in harness.receiver.requests if request.path == path}
    return [(envelope["status"], float(envelope["row"]["amount"])) for envelope in first.values()]


async def until_paths_received(harness: Harness, **expected: list[tuple[str, float]]) -> None:
    async def all_received() -> bool:
        for path, at_path in expected.items():
            assert notified(harness, f"/{path}") == at_path
        return True

    await until_some(all_received)


async def history(harness: Harness, tocsin: TocsinProcess) -> tuple[dict[str, Any], str]:
    """The only episode, as the API has it, and the table of the command."""
    [episode] = (await tocsin.json("/api/v1/history/orders"))["episodes"]
    status, output, errors = await command(harness.directory, "history", "orders", "-c", "tocsin.yaml")
    assert status == 0, errors
    return episode, output


async def test_row_fires_and_resolves_by_condition(harness: Harness) -> None:
    """It fires when it begins to match, and resolves when it no longer does."""
    harness.config["channels"]["pager"] = quick_channel(f"{harness.receiver.url}/pager")
    # The pager first, so that of two that are notified together it is not the newer one.
    harness.alert["notify"] = [
        {"channel": "pager", "when": "row.amount > 15"},
        {"channel": "hook", "when": "row.amount <= 15"},
    ]
    hook, pager = [("fired", 10.0)], list[tuple[str, float]]()
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await until_paths_received(harness, hook=hook, pager=pager)

        harness.orders.update(("1", "Ann", "10"), ("1", "Ann", "20"))
        hook += [("resolved", 10.0)]
        pager += [("fired", 20.0)]
        await until_paths_received(harness, hook=hook, pager=pager)
        episode, output = await history(harness, tocsin)
        assert (episode["firing"], episode["ended_at"], float(episode["row"]["amount"])) == (True, None, 20.0)
        assert "still firing" in output
        assert "amount=20" in output

        harness.orders.update(("1", "Ann", "20"), ("1", "Ann", "25"))
        pager += [("updated", 25.0)]
        await until_paths_received(harness, hook=hook, pager=pager)

        harness.orders.update(("1", "Ann", "25"), ("1", "Ann", "5"))
        pager += [("resolved", 25.0)]
        hook += [("fired", 5.0)]
        await until_paths_received(harness, hook=hook, pager=pager)

        harness.orders.delete(("1", "Ann", "5"))
        hook += [("resolved", 5.0)]
        await until_paths_received(harness, hook=hook, pager=pager)
        assert len({(one["fingerprint"], one["started_at"]) for one in harness.envelopes()}) == 1
        episode, output = await history(harness, tocsin)
        assert (episode["firing"], episode["kind"]) == (False, "resolved")
        assert episode["ended_at"] == harness.envelopes()[-1]["at"]
        assert episode["seconds"] > 0
        assert "firing" not in output


async def test_unsent_end_of_row_has_unknown_time(harness: Harness) -> None:
    """No channel was notified of the end of the row, so its time was not stored."""
    harness.alert["notify"] = [{"channel": "hook", "on": ["fired"]}]
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await until_paths_received(harness, hook=[("fired", 10.0)])
        episode, output = await history(harness, tocsin)
        assert (episode["firing"], "still firing" in output) == (True, True)

        harness.orders.delete(("1", "Ann", "10"))
        await harness.until_shown(tocsin)

        async def ended() -> bool:
            [episode] = (await tocsin.json("/api/v1/history/orders"))["episodes"]
            assert (episode["firing"], episode["ended_at"], episode["seconds"]) == (False, None, None)
            return True

        await until_some(ended)
        _, output = await history(harness, tocsin)
        assert "ended, time not kept" in output
        _, lines, _ = await command(harness.directory, "history", "orders", "--json", "-c", "tocsin.yaml")
        plain = json.loads(lines)
        assert (plain["firing"], plain["ended_at"], plain["seconds"]) == (False, None, None)
        assert notified(harness, "/hook") == [("fired", 10.0)]

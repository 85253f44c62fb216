"""Rows that go to channels by what is in them, and what is merged within an interval, end to end: a view, the process,
a receiver; and the history that tells of it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.tocsin import Stage, Tocsin, command, quick_channel, staged
from support.waiting import until_some

pytestmark = pytest.mark.e2e


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"))
        yield made


def told(stage: Stage, path: str) -> list[tuple[str, float]]:
    """What a path of the receiver was told, repeats of one id left out: kind and amount."""
    first = {request.json["id"]: request.json for request in stage.receiver.requests if request.path == path}
    return [(envelope["status"], float(envelope["row"]["amount"])) for envelope in first.values()]


async def until_paths_told(stage: Stage, **expected: list[tuple[str, float]]) -> None:
    async def look() -> bool:
        for path, told_there in expected.items():
            assert told(stage, f"/{path}") == told_there
        return True

    await until_some(look)


async def history(stage: Stage, tocsin: Tocsin) -> tuple[dict[str, Any], str]:
    """The only episode, as the API has it, and the table of the command."""
    [episode] = (await tocsin.json("/api/v1/history/orders"))["episodes"]
    status, output, errors = await command(stage.directory, "history", "orders", "-c", "tocsin.yaml")
    assert status == 0, errors
    return episode, output


async def test_a_row_fires_where_it_begins_to_match_and_resolves_where_it_ceases_to(stage: Stage) -> None:
    stage.config["channels"]["pager"] = quick_channel(f"{stage.receiver.url}/pager")
    # The pager first, so that of two that are told at once it is not the newer one.
    stage.alert["notify"] = [
        {"channel": "pager", "when": "row.amount > 15"},
        {"channel": "hook", "when": "row.amount <= 15"},
    ]
    hook, pager = [("fired", 10.0)], list[tuple[str, float]]()
    async with stage.run() as tocsin:
        await tocsin.until_ready()
        await until_paths_told(stage, hook=hook, pager=pager)

        stage.orders.update(("1", "Ann", "10"), ("1", "Ann", "20"))
        hook += [("resolved", 10.0)]
        pager += [("fired", 20.0)]
        await until_paths_told(stage, hook=hook, pager=pager)
        episode, output = await history(stage, tocsin)
        assert (episode["firing"], episode["ended_at"], float(episode["row"]["amount"])) == (True, None, 20.0)
        assert "still firing" in output
        assert "amount=20" in output

        stage.orders.update(("1", "Ann", "20"), ("1", "Ann", "25"))
        pager += [("updated", 25.0)]
        await until_paths_told(stage, hook=hook, pager=pager)

        stage.orders.update(("1", "Ann", "25"), ("1", "Ann", "5"))
        pager += [("resolved", 25.0)]
        hook += [("fired", 5.0)]
        await until_paths_told(stage, hook=hook, pager=pager)

        stage.orders.delete(("1", "Ann", "5"))
        hook += [("resolved", 5.0)]
        await until_paths_told(stage, hook=hook, pager=pager)
        assert len({(one["fingerprint"], one["started_at"]) for one in stage.envelopes()}) == 1
        episode, output = await history(stage, tocsin)
        assert (episode["firing"], episode["kind"]) == (False, "resolved")
        assert episode["ended_at"] == stage.envelopes()[-1]["at"]
        assert episode["seconds"] > 0
        assert "firing" not in output


async def test_a_row_of_whose_end_nobody_was_told_has_ended_at_a_time_that_was_not_kept(stage: Stage) -> None:
    stage.alert["notify"] = [{"channel": "hook", "on": ["fired"]}]
    async with stage.run() as tocsin:
        await tocsin.until_ready()
        await until_paths_told(stage, hook=[("fired", 10.0)])
        episode, output = await history(stage, tocsin)
        assert (episode["firing"], "still firing" in output) == (True, True)

        stage.orders.delete(("1", "Ann", "10"))
        await stage.until_shown(tocsin)

        async def ended() -> bool:
            [episode] = (await tocsin.json("/api/v1/history/orders"))["episodes"]
            assert (episode["firing"], episode["ended_at"], episode["seconds"]) == (False, None, None)
            return True

        await until_some(ended)
        _, output = await history(stage, tocsin)
        assert "ended, time not kept" in output
        _, lines, _ = await command(stage.directory, "history", "orders", "--json", "-c", "tocsin.yaml")
        plain = json.loads(lines)
        assert (plain["firing"], plain["ended_at"], plain["seconds"]) == (False, None, None)
        assert told(stage, "/hook") == [("fired", 10.0)]


async def test_within_an_interval_what_becomes_of_the_rows_of_one_group_is_merged_and_sent_at_its_end(
    stage: Stage,
) -> None:
    for row in (("2", "Ann", "20"), ("3", "Bob", "30"), ("4", "Ann", "40")):
        stage.orders.insert(row)
    stage.alert["notify"] = [{"channel": "hook", "interval": "2s", "group_by": ["name"]}]

    def messages(name: str) -> list[list[tuple[str, int]]]:
        """Kinds and ids in each message of a group."""
        first = {one["id"]: one for one in stage.envelopes() if one["row"]["name"] == name}
        return [[(part["status"], part["row"]["id"]) for part in one.get("merged", [one])] for one in first.values()]

    async with stage.run() as tocsin:
        await tocsin.until_ready()
        await stage.receiver.arrived(2)  # of each group the first alone
        [[(kind, alone)]] = messages("Ann")
        others = [("fired", id_) for id_ in (1, 2, 4) if id_ != alone]
        stage.orders.delete((str(alone), "Ann", str(10 * alone)))

        async def all_told() -> bool:
            told = messages("Ann")
            assert [one for message in told for one in sorted(message)] == [(kind, alone), *others, ("resolved", alone)]
            return True

        await until_some(all_told)
        # Those that were there from the beginning are one message; the end is in it, or on a slow machine in the next.
        assert set(others) <= set(messages("Ann")[1])
        assert messages("Bob") == [[("fired", 3)]]

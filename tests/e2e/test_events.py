"""Alerts on events, end to end: posted to the port, stored before the answer, notified once, by severity, merged."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from support.receiver import Answer, Receiver
from support.tocsin import TocsinProcess, command, running, running_with, write
from support.waiting import until, until_some
from tocsin.signing import Signer

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-some-length"
AUTHORIZATION = f"Bearer {TOKEN}"
SIGNING = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Scenario:
    """A receiver of webhooks, and a configuration with one alert on posted events that a test may change."""

    def __init__(self, directory: Path, receiver: Receiver) -> None:
        self.directory = directory
        self.receiver = receiver
        self.config: dict[str, Any] = {
            "ledger": {"path": str(directory / "tocsin.db")},
            "web": {"listen": "127.0.0.1:0"},
            "sources": {"posted": {"type": "http", "token": TOKEN}},
            "channels": {
                "hook": {
                    "type": "webhook",
                    "url": f"{receiver.url}/hook",
                    "backoff_initial": "100ms",
                    "backoff_max": "200ms",
                }
            },
            "alerts": {"orders": {"source": "posted", "labels": ["severity"], "notify": ["hook"]}},
        }

    @property
    def alert(self) -> dict[str, Any]:
        alert: dict[str, Any] = self.config["alerts"]["orders"]
        return alert

    def notified(self, path: str = "/hook") -> list[Any]:
        """The envelopes that a path of the receiver got, repeats of one id left out."""
        first = {request.json["id"]: request.json for request in self.receiver.requests if request.path == path}
        return list(first.values())

    def rows(self, path: str = "/hook") -> list[list[Any]]:
        """The numbers of the orders in each message."""
        return [[one["row"]["id"] for one in envelope.get("merged", [envelope])] for envelope in self.notified(path)]


@pytest.fixture
async def scenario(tmp_path: Path) -> AsyncIterator[Scenario]:
    async with Receiver() as receiver:
        yield Scenario(tmp_path, receiver)


async def post(tocsin: TocsinProcess, *events: Any, alert: str = "orders", **headers: str) -> tuple[int, Any]:
    body = b"\n".join(json.dumps(event).encode() for event in events)
    headers = {"Authorization": AUTHORIZATION, **headers}
    status, text = await tocsin.post(f"/api/v1/events/{alert}", body, **headers)
    return status, json.loads(text)


def order(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "severity": "page", **more}


async def test_posted_event_is_sent_with_typed_row(scenario: Scenario) -> None:
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        row = order(1, amount=1.5, paid=False, items=["pizza"], note=None)
        assert await post(tocsin, row) == (202, {"events": 1})
        await scenario.receiver.arrived(1)
        [notified] = scenario.notified()
        assert (notified["status"], notified["alert"], notified["labels"]) == ("event", "orders", {"severity": "page"})
        assert notified["row"] == row
        assert notified["previous"] is None


@pytest.mark.parametrize(
    ("body", "events"),
    [(b'{"id": 1}', 1), (b'[{"id": 1}, {"id": 2}]', 2), (b'{"id": 1}\n{"id": 2}\n\n{"id": 3}\n', 3)],
    ids=["object", "list", "lines"],
)
async def test_request_holds_event_list_or_lines(scenario: Scenario, body: bytes, events: int) -> None:
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        status, text = await tocsin.post("/api/v1/events/orders", body, Authorization=AUTHORIZATION)
        assert (status, json.loads(text)) == (202, {"events": events})
        await scenario.receiver.arrived(events)
        assert sorted(scenario.rows()) == [[number + 1] for number in range(events)]


async def test_accepted_event_survives_immediate_kill(scenario: Scenario) -> None:
    scenario.receiver.otherwise = lambda _: Answer(status=503)
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        answers = await asyncio.gather(*(post(tocsin, order(number)) for number in range(50)))
        assert {status for status, _ in answers} == {202}
        await tocsin.kill()
    scenario.receiver.otherwise = lambda _: Answer()
    before = len(scenario.receiver.requests)
    async with running(scenario.directory, scenario.config):
        await until(lambda: len({r.json["id"] for r in scenario.receiver.requests[before:]}) == 50, "fifty deliveries")


async def test_repeated_idempotency_key_is_sent_once(scenario: Scenario) -> None:
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        for _ in range(3):
            assert (await post(tocsin, order(1), Idempotency_Key="k-1"))[0] == 202
        assert (await post(tocsin, order(2)))[0] == 202
        await until(lambda: [2] in scenario.rows(), "the last one")
        assert scenario.rows() == [[1], [2]]
        assert len(scenario.receiver.requests) == 2


REFUSED = [
    ("orders", b"{}", "", 401, "the token is missing or wrong"),
    ("orders", b"{}", "Bearer wrong-but-quite-long", 401, "the token is missing or wrong"),
    ("orders", b"{}", "Bearer \u00ff\u00fe", 401, "the token is missing or wrong"),
    ("orders", b"", AUTHORIZATION, 400, "it is not JSON"),
    ("orders", b"[]", AUTHORIZATION, 400, "has no event in it"),
    ("orders", b"[1]", AUTHORIZATION, 400, "not a JSON object but a number"),
    ("orders", b'{"a": NaN}', AUTHORIZATION, 400, "NaN is not a JSON value"),
    ("orders", b"[" * 100_000, AUTHORIZATION, 400, "nested too deeply"),
    ("orders", b'{"a": "' + b"x" * 2_000_000 + b'"}', AUTHORIZATION, 413, "more than 1048576 bytes"),
    ("lost", b"{}", AUTHORIZATION, 404, "no alert 'lost' takes events over HTTP"),
]
"""Alert, body, authorization, status of the answer, and a part of it."""


async def test_bad_request_is_refused_in_one_sentence(scenario: Scenario) -> None:
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        for alert, body, authorization, status, part in REFUSED:
            found, text = await tocsin.post(f"/api/v1/events/{alert}", body, Authorization=authorization)
            assert found == status, text
            assert part in json.loads(text)["error"]
            assert TOKEN not in text
        assert TOKEN not in "".join(tocsin.log)
        assert scenario.receiver.requests == []


async def test_only_valid_signature_is_accepted(scenario: Scenario) -> None:
    scenario.config["sources"]["posted"] = {"type": "http", "signing_secret": SIGNING}
    body, now = json.dumps(order(1)).encode(), round(time.time())

    async def signed(moment: int, sent: bytes = body, key: str = "") -> int:
        headers = dict(Signer([SIGNING]).headers("msg-1", moment, body))
        status, _ = await tocsin.post("/api/v1/events/orders", sent, **headers, Idempotency_Key=key)
        return status

    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        assert await signed(now) == 202
        assert await signed(now, key="another") == 202  # the same request, replayed by another client
        assert await signed(now, body + b" ") == 401
        assert await signed(now - 3600) == 401
        assert await signed(now + 3600) == 401
        assert (await tocsin.post("/api/v1/events/orders", body))[0] == 401
        absurd = {"webhook-id": "msg-2", "webhook-timestamp": "9" * 5000, "webhook-signature": "v1,x"}
        assert (await tocsin.post("/api/v1/events/orders", body, **absurd))[0] == 401
        await until(scenario.notified, "the event")
        assert (await tocsin.json("/api/v1/history/orders"))["episodes"][1:] == []


async def test_severity_selects_the_channels(scenario: Scenario) -> None:
    scenario.config["channels"]["pager"] = {"type": "webhook", "url": f"{scenario.receiver.url}/pager"}
    scenario.alert["notify"] = [
        {"channel": "pager", "when": "row.severity == 'page'"},
        {"channel": "hook", "when": "row.severity != 'page'"},
    ]
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, order(1), order(2, severity="info"), order(3), {"id": 4})
        await until(lambda: len(scenario.receiver.requests) == 5, "five messages")
        assert sorted(scenario.rows("/hook")) == [[2], [4]]
        # A condition on a column that an event lacks cannot be evaluated: every route gets it.
        assert sorted(scenario.rows("/pager")) == [[1], [3], [4]]
        assert await tocsin.metric("tocsin_alert_condition_errors_total", alert="orders") == 2


async def test_repeats_within_window_are_suppressed(scenario: Scenario) -> None:
    """Only the first is sent."""
    scenario.alert.update(dedupe_by=["id"], dedupe_window="1h")
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, order(1), order(1, severity="other"), order(2))
        await post(tocsin, order(2), order(3))
        await until(lambda: [3] in scenario.rows(), "the last one")
        assert sorted(scenario.rows()) == [[1], [2], [3]]
        assert await tocsin.metric("tocsin_alert_repeated_events_total", alert="orders") == 2


AHEAD = """
import os, time

real = time.time
time.time = lambda: real() + float(os.environ["AHEAD"])
"""
"""A module that sets the wall clock of a process ahead by a number of seconds."""


async def test_digest_by_group_survives_restart(scenario: Scenario) -> None:
    """Events of one interval are merged by group and sent at its end."""
    (scenario.directory / "sitecustomize.py").write_text(AHEAD)
    scenario.alert["notify"] = [{"channel": "hook", "interval": "24h", "group_by": ["severity"]}]

    def after(hours: float) -> AbstractAsyncContextManager[TocsinProcess]:
        """The process, so long after the first start."""
        return running(scenario.directory, scenario.config, PYTHONPATH=str(scenario.directory), AHEAD=str(hours * 3600))

    async with after(0) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, order(1))
        await post(tocsin, order(2), order(3), order(9, severity="info"))
        await scenario.receiver.arrived(2)
        await tocsin.kill()
    assert sorted(scenario.rows()) == [[1], [9]]
    async with after(20) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, order(4), order(10, severity="other"))
        await until(lambda: [10] in scenario.rows(), "what belongs to another group")
        await tocsin.kill()
    assert sorted(scenario.rows()) == [[1], [9], [10]]
    async with after(25):
        await until(lambda: len(scenario.notified()) == 4, "the merged message")
        assert scenario.rows()[3] == [2, 3, 4]
        assert scenario.notified()[3]["merged"][0]["id"] == scenario.notified()[3]["id"]


async def test_events_of_key_stay_in_order_after_refusal(scenario: Scenario) -> None:
    scenario.alert["key"] = ["severity"]
    scenario.receiver.script(Answer(status=503), Answer(status=503))
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, *(order(number) for number in range(10)))
        await scenario.receiver.arrived(12)
        assert scenario.rows() == [[number] for number in range(10)]


async def test_history_shows_every_event_and_attempt(scenario: Scenario) -> None:
    scenario.receiver.script(Answer(status=503), Answer(status=500, body=b"later"))
    async with running(scenario.directory, scenario.config) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, order(1))
        await scenario.receiver.arrived(3)

        async def delivered() -> Any:
            found = (await tocsin.json("/api/v1/notifications?status=delivered"))["notifications"]
            return found[0] if found else None

        found = await until_some(delivered)
        shown = await tocsin.json(f"/api/v1/notifications/{found['id']}")
        assert [one["reason"] for one in shown["failed_attempts"]] == ["server_error"] * 2
        assert shown["failed_attempts"][1]["detail"] == "500 later"
        [episode] = (await tocsin.json("/api/v1/history/orders"))["episodes"]
        assert episode["deliveries"] == [{"channel": "hook", "status": "delivered", "count": 1}]
        assert (episode["kind"], episode["seconds"]) == ("event", 0.0)

    status, output, _ = await command(scenario.directory, "history", "orders", "-c", "tocsin.yaml")
    assert status == 0
    assert "hook: 1 delivered" in output
    status, output, _ = await command(scenario.directory, "outbox", "show", found["id"], "-c", "tocsin.yaml")
    assert output.count("server_error") == 2
    status, _, errors = await command(scenario.directory, "history", "ordres", "-c", "tocsin.yaml")
    assert (status, errors) == (1, "tocsin: there is no alert ordres; there are orders\n")


async def test_dry_run_prints_and_keeps_nothing(scenario: Scenario) -> None:
    path = write(scenario.directory / "tocsin.yaml", scenario.config)
    async with running_with(scenario.directory, "--config", str(path), "--dry-run", file=path) as tocsin:
        await tocsin.until_ready()
        # It never acknowledges, so the sender gets no success.
        waiting = asyncio.create_task(post(tocsin, order(1)))
        await until(lambda: any('"id"' in line or "orders" in line for line in tocsin.output), "a printed event")
        assert not waiting.done()
        waiting.cancel()
    assert scenario.receiver.requests == []
    assert not (scenario.directory / "tocsin.db").exists()

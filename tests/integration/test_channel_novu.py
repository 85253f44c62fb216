"""The Novu channel against the inbox, which answers as a real Novu did."""

import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import ValidationError

from support.messages import message
from support.novu import API_KEY, DELAYED_WORKFLOW, INACTIVE_WORKFLOW, REQUIRED_WORKFLOW, WORKFLOW, FakeNovu, fake_novu
from support.receiver import Answer, Receiver, of_json
from tocsin.channels import Delivered, Message, Paused, Rejected, Result, Retry, novu
from tocsin.errors import ConfigError, Reason
from tocsin.model import Kind
from tocsin_demo.inbox.inbox import Settings

TRIGGER = "/v1/events/trigger"
BULK = "/v1/events/trigger/bulk"
Build = Callable[..., Any]


@pytest.fixture
async def server() -> AsyncIterator[FakeNovu]:
    async with fake_novu() as running:
        yield running


@pytest.fixture
async def build(request: pytest.FixtureRequest) -> AsyncIterator[Build]:
    made: list[Any] = []

    def make(url: str, *, now: float = 0.0, **settings: Any) -> Any:
        fields = {"type": "novu", "url": url, "api_key": API_KEY, "workflow": WORKFLOW, "recipients": ["sub-1"]}
        config = novu.Config.model_validate(fields | settings)
        options = {name: value for name, value in (fields | settings).items() if name in novu.Options.model_fields}
        made.append(novu.build("novu", config, {"late": novu.Options.model_validate(options)}, now=lambda: now))
        return made[-1]

    yield make
    for channel in made:
        await channel.close()


async def sent(channel: Any, what: Message | None = None) -> Result:
    [result] = await channel.send([what or message()])
    assert isinstance(result, Delivered | Retry | Rejected | Paused)
    return result


def bodies(server: FakeNovu, path: str = TRIGGER) -> list[Any]:
    return [json.loads(each.body) for each in server.requests() if each.path == path]


class TestOneTrigger:
    async def test_the_id_is_transaction_id_and_idempotency_key_and_the_payload_the_envelope(
        self, server: FakeNovu, build: Build
    ) -> None:
        what = message()
        assert await sent(build(server.url), what) == Delivered()
        await server.until_delivered(1)
        [request] = server.requests(TRIGGER)
        assert request.idempotency_key == what.id
        [body] = bodies(server)
        assert body == {"name": WORKFLOW, "to": ["sub-1"], "payload": what.envelope, "transactionId": what.id}

    async def test_a_payload_of_columns_holds_those_of_them_that_the_row_has(
        self, server: FakeNovu, build: Build
    ) -> None:
        channel = build(server.url, payload=["order_id", "customer", "gone"])
        assert await sent(channel) == Delivered()
        assert bodies(server)[0]["payload"] == {"order_id": 17, "customer": "Ann"}

    async def test_a_payload_template_actor_and_overrides_are_rendered(self, server: FakeNovu, build: Build) -> None:
        channel = build(
            server.url,
            payload={"msg": "{{ annotations.summary }}", "late_by": "{{ value }}", "row": "{{ row }}", "none": None},
            actor="{{ labels.customer }}",
            tenant="{{ '' }}",
            overrides={"providers": {"fcm": {"tag": "{{ fingerprint }}"}}},
        )
        what = message()
        assert await sent(channel, what) == Delivered()
        [body] = bodies(server)
        row = {"order_id": 17, "customer": "Ann", "late_by": 3.0}
        assert body["payload"] == {"msg": "Order 17 of Ann is late", "late_by": 3, "row": row, "none": None}
        assert body["actor"] == "Ann"
        assert "tenant" not in body
        assert body["overrides"] == {"providers": {"fcm": {"tag": what.envelope["fingerprint"]}}}

    async def test_topics_go_beside_recipients(self, server: FakeNovu, build: Build) -> None:
        await sent(build(server.url, topics=["ops"]))
        assert bodies(server)[0]["to"] == ["sub-1", {"type": "Topic", "topicKey": "ops"}]

    async def test_an_update_is_a_trigger_of_its_own(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url)
        first, second = message(), message(Kind.UPDATED, at=1_795_242_549_000)
        assert [await sent(channel, first), await sent(channel, second)] == [Delivered(), Delivered()]
        await server.until_delivered(2)
        assert [each["transactionId"] for each in bodies(server)] == [first.id, second.id]

    async def test_a_status_other_than_processed_is_a_rejection_with_its_name(
        self, server: FakeNovu, build: Build
    ) -> None:
        result = await sent(build(server.url, workflow=INACTIVE_WORKFLOW))
        assert result == Rejected(Reason.NOT_PROCESSED, "trigger_not_active; activate the workflow in Novu")

    async def test_a_status_that_the_sdk_does_not_know_is_a_rejection_too(self, server: FakeNovu, build: Build) -> None:
        server.fault("event_status", event_status="subscriber_id_missing")
        assert await sent(build(server.url)) == Rejected(Reason.NOT_PROCESSED, "subscriber_id_missing")

    async def test_a_201_that_cannot_be_read_is_a_delivery(self, server: FakeNovu, build: Build) -> None:
        server.fault("garbage")
        assert await sent(build(server.url)) == Delivered()
        await server.until_delivered(1)

    @pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'{"data": []}', b'{"data": {"status": 7}}', b"", b"\xff"])
    async def test_so_is_one_that_says_something_else(self, build: Build, body: bytes) -> None:
        async with Receiver(
            lambda _: Answer(status=201, body=body, headers={"content-type": "application/json"})
        ) as receiver:
            channel = build(receiver.url)
            assert await channel.send([message()]) == [Delivered()]
            assert await channel.send(TestBulk.several(2)) == [Delivered()] * 2

    async def test_an_unknown_workflow_is_final(self, server: FakeNovu, build: Build) -> None:
        assert await sent(build(server.url, workflow="nope")) == Rejected(Reason.REJECTED, "422 workflow_not_found")

    async def test_a_missing_variable_is_final_and_named(self, server: FakeNovu, build: Build) -> None:
        result = await sent(build(server.url, workflow=REQUIRED_WORKFLOW))
        assert isinstance(result, Rejected)
        assert "reqd" in result.detail

    async def test_an_alert_that_is_no_longer_routed_uses_the_settings_of_the_channel(
        self, server: FakeNovu, build: Build
    ) -> None:
        assert await sent(build(server.url), message(alert="removed")) == Delivered()


class TestRecipients:
    @pytest.mark.parametrize(
        ("type_name", "text", "expected"),
        [
            ("text", "sub-1", ["sub-1"]),
            ("text", " sub-1, sub-2,,sub-1 ", ["sub-1", "sub-2"]),
            ("texts", '{sub-2,"a,b",NULL}', ["sub-2", "a,b"]),
            ("list", "{sub-2,NULL}", ["sub-2"]),
            ("jsonb", '["sub-2", 7]', ["sub-2", "7"]),
            ("int", "42", ["42"]),
            ("numeric", "42", ["42"]),
        ],
    )
    async def test_a_column_names_them(
        self, server: FakeNovu, build: Build, type_name: str, text: str, expected: list[str]
    ) -> None:
        channel = build(server.url, recipients=[{"column": "who"}])
        assert await sent(channel, message(extra={"who": (type_name, text)})) == Delivered()
        assert bodies(server)[0]["to"] == expected

    async def test_named_twice_means_one_message(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, recipients=["sub-2", {"column": "who"}, "sub-1"])
        assert await sent(channel, message(extra={"who": ("text", "sub-1,sub-2")})) == Delivered()
        assert bodies(server)[0]["to"] == ["sub-2", "sub-1"]

    @pytest.mark.parametrize(
        ("extra", "complaint"),
        [
            ({"who": ("text", "")}, "the row names nobody in who"),
            ({"who": ("text", " , ")}, "the row names nobody in who"),
            ({"who": ("text", None)}, "the row names nobody in who"),
            ({"who": ("texts", "{}")}, "the row names nobody in who"),
            ({"who": ("jsonb", "[null]")}, "the row names nobody in who"),
            ({"who": ("jsonb", '[{"id": 1}]')}, "column 'who' holds dict, which is no subscriber id"),
            ({"who": ("jsonb", "true")}, "column 'who' holds bool, which is no subscriber id"),
            ({}, "the row has no column 'who'"),
        ],
    )
    async def test_what_novu_would_accept_and_deliver_to_nobody_is_rejected_unsent(
        self, server: FakeNovu, build: Build, extra: dict[str, tuple[str, str | None]], complaint: str
    ) -> None:
        result = await sent(build(server.url, recipients=[{"column": "who"}]), message(extra=extra))
        assert result == Rejected(Reason.NO_RECIPIENTS, f"recipients: {complaint}")
        assert not server.requests()

    async def test_more_than_a_hundred_are_rejected_unsent(self, server: FakeNovu, build: Build) -> None:
        ids = ",".join(f"s{n}" for n in range(101))
        result = await sent(build(server.url, recipients=[{"column": "who"}]), message(extra={"who": ("text", ids)}))
        assert result == Rejected(Reason.TOO_LARGE, "101 recipients, and Novu takes 100 in one trigger; use a topic")
        assert not server.requests()

    async def test_a_payload_beyond_the_limit_is_rejected_unsent(self, server: FakeNovu, build: Build) -> None:
        what = message(extra={"note": ("text", "é" * 3000)})
        size = len(json.dumps(what.envelope, ensure_ascii=False, separators=(",", ":")).encode())
        assert await sent(build(server.url, max_payload=size), what) == Delivered()
        result = await sent(build(server.url, max_payload=size - 1), what)
        assert result == Rejected(Reason.TOO_LARGE, f"the payload has {size} bytes, max_payload is {size - 1}")
        assert len(server.requests()) == 1


class TestFailures:
    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            ({"status": 400}, Rejected(Reason.REJECTED, "400 Bad Request")),
            ({"status": 402}, Paused(Reason.UNAUTHORIZED, "402 Payment Required")),
            ({"status": 403}, Paused(Reason.UNAUTHORIZED, "403 Forbidden")),
            ({"status": 404, "message": "gone"}, Rejected(Reason.NOT_FOUND, "404 gone")),
            ({"status": 408, "message": "slow"}, Retry(Reason.TIMEOUT, "408 slow", 2.0)),
            ({"status": 409, "message": "wait"}, Retry(Reason.IN_PROGRESS, "409 wait", None, free=True)),
            (
                {"status": 409, "message": "wait", "retry_after": 1},
                Retry(Reason.IN_PROGRESS, "409 wait", 1.0, free=True),
            ),
            ({"status": 413}, Rejected(Reason.TOO_LARGE, "413 Payload Too Large")),
            ({"status": 425, "message": "early"}, Retry(Reason.TOO_EARLY, "425 early")),
            ({"status": 429}, Retry(Reason.RATE_LIMITED, "429 API rate limit exceeded", None, free=True)),
            (
                {"status": 429, "retry_after": 2},
                Retry(Reason.RATE_LIMITED, "429 API rate limit exceeded", 2.0, free=True),
            ),
            ({"status": 500}, Retry(Reason.SERVER_ERROR, "500 Internal server error", 2.0)),
            ({"status": 503, "retry_after": 30}, Retry(Reason.SERVER_ERROR, "503 Internal server error", 30.0)),
        ],
    )
    async def test_a_status_is_told_rightly(
        self, server: FakeNovu, build: Build, fault: dict[str, Any], expected: Result
    ) -> None:
        server.fault("status", **fault)
        assert await sent(build(server.url)) == expected

    async def test_a_wrong_key_pauses_the_channel(self, server: FakeNovu, build: Build) -> None:
        result = await sent(build(server.url, api_key="wrong-S3CR3T"))
        assert result == Paused(Reason.UNAUTHORIZED, "401 API Key not found")

    async def test_a_hanging_server_is_a_timeout_and_the_repeat_waits(self, server: FakeNovu, build: Build) -> None:
        server.fault("hang")
        result = await sent(build(server.url, timeout="200ms", unknown_outcome_wait="3s"))
        assert result == Retry(Reason.TIMEOUT, "no answer within 0.2 s", 3.0)

    async def test_an_answer_in_drips_is_a_timeout_too(self, build: Build) -> None:
        async with Receiver(lambda _: Answer(status=201, unfinished=True)) as receiver:
            result = await sent(build(receiver.url, timeout="200ms"))
        assert result == Retry(Reason.TIMEOUT, "no answer within 0.2 s", 2.0)

    async def test_a_cut_connection_is_retried_after_a_wait_and_delivered_once(
        self, server: FakeNovu, build: Build
    ) -> None:
        channel = build(server.url)
        server.fault("cut", times=1, processed=True)
        result = await sent(channel)
        assert isinstance(result, Retry)
        assert (result.reason, result.after) == (Reason.CONNECTION, 2.0)
        await server.until_delivered(1)
        assert await sent(channel) == Delivered()
        assert len(server.messages()) == 1

    async def test_a_redirect_is_not_followed(self, build: Build) -> None:
        async with Receiver(lambda _: Answer(status=307, headers={"location": "/elsewhere"})) as receiver:
            result = await sent(build(receiver.url))
            assert isinstance(result, Rejected)
            assert result.detail.startswith("307")
            assert len(receiver.requests) == 1

    async def test_an_error_that_novu_has_stored_does_not_stick(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url)
        server.fault("status", status=500, times=1, stored=True)
        assert isinstance(await sent(channel), Retry)
        assert await sent(channel, message(attempts=1)) == Delivered()
        await server.until_delivered(1)
        keys = [each.idempotency_key for each in server.requests(TRIGGER)]
        assert keys == [message().id, message().id, f"{message().id}-1"]

    async def test_a_rejected_one_can_be_sent_again_when_the_workflow_is_there(
        self, server: FakeNovu, build: Build
    ) -> None:
        channel = build(server.url, workflow="later")
        for _ in range(3):
            assert isinstance(await sent(channel), Rejected)
        server.add_workflow("later")
        assert await sent(channel) == Delivered()
        await server.until_delivered(1)

    async def test_a_repeat_with_another_body_is_accepted_and_not_delivered_twice(
        self, server: FakeNovu, build: Build
    ) -> None:
        assert await sent(build(server.url)) == Delivered()
        await server.until_delivered(1)
        assert await sent(build(server.url, payload=["customer"]), message(attempts=1)) == Delivered()
        repeat = server.requests(TRIGGER)[-1]
        await server.until(lambda: server.inbox.engine.counters.repeats_dropped == 1)
        assert repeat.idempotency_key == f"{message().id}-1"
        assert len(server.messages()) == 1

    async def test_the_sdk_logs_nothing_even_when_told_to_debug(
        self, server: FakeNovu, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("NOVU_DEBUG", "true")
        with caplog.at_level(logging.DEBUG):
            await sent(build(server.url))
        assert not [record for record in caplog.records if record.name.startswith("novu")]
        assert API_KEY not in caplog.text


class TestBulk:
    @staticmethod
    def several(count: int, **rest: Any) -> list[Message]:
        return [message(key=str(number), **rest) for number in range(count)]

    async def test_several_go_out_in_one_request(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url)
        assert channel.take(1) == 1
        assert channel.take(37) == 37
        assert channel.take(1000) == 100
        assert await channel.send(self.several(100)) == [Delivered()] * 100
        await server.until_delivered(100)
        assert [each.path for each in server.requests()] == [BULK]

    async def test_one_bad_event_is_rejected_alone(self, server: FakeNovu, build: Build) -> None:
        messages = self.several(3)
        bad = sorted(messages, key=lambda each: each.id)[1]
        server.fault("bad_event", index=1)
        results = await build(server.url).send(messages)
        rejected = Rejected(Reason.NOT_PROCESSED, "error: workflow_not_found")
        assert results == [rejected if each is bad else Delivered() for each in messages]

    async def test_the_same_set_makes_the_same_request_in_whatever_order(self, server: FakeNovu, build: Build) -> None:
        messages = self.several(5)
        server.fault("status", status=502, times=1)
        channel = build(server.url)
        first = await channel.send(messages)
        assert {type(each) for each in first} == {Retry}
        assert await channel.send(messages[::-1]) == [Delivered()] * 5
        one, two = server.requests(BULK)
        assert (one.idempotency_key, one.body) == (two.idempotency_key, two.body)
        assert one.idempotency_key not in {each.id for each in messages}

    async def test_one_id_is_never_twice_in_a_bulk(self, server: FakeNovu, build: Build) -> None:
        first, second = self.several(2)
        assert await build(server.url).send([first, second, first]) == [Delivered()] * 3
        await server.until_delivered(2)
        assert sorted(each["transactionId"] for each in bodies(server, BULK)[0]["events"]) == sorted(
            [first.id, second.id]
        )
        assert server.inbox.engine.counters.doubles == 0

    async def test_what_cannot_be_sent_stays_out_and_the_last_one_goes_alone(
        self, server: FakeNovu, build: Build
    ) -> None:
        channel = build(server.url, recipients=[{"column": "who"}])
        good = message(extra={"who": ("text", "sub-1")})
        nobody = message(key="18", extra={"who": ("text", "")})
        results = await channel.send([nobody, good])
        assert [type(each) for each in results] == [Rejected, Delivered]
        assert [each.path for each in server.requests()] == [TRIGGER]

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ({"kind": "status", "status": 500}, Reason.SERVER_ERROR),
            ({"kind": "status", "status": 429, "retry_after": 2}, Reason.RATE_LIMITED),
            ({"kind": "hang"}, Reason.TIMEOUT),
            ({"kind": "cut"}, Reason.CONNECTION),
        ],
    )
    async def test_a_failure_of_the_bulk_is_one_of_each(
        self, server: FakeNovu, build: Build, fault: dict[str, Any], reason: Reason
    ) -> None:
        server.fault(**fault)
        timeout = "300ms" if fault["kind"] == "hang" else "20s"
        results = await build(server.url, timeout=timeout).send(self.several(3))
        assert [(type(each), each.reason) for each in results] == [(Retry, reason)] * 3

    async def test_a_refused_bulk_is_sent_one_by_one(self, server: FakeNovu, build: Build) -> None:
        server.fault("status", status=413, path=BULK)
        assert await build(server.url).send(self.several(3)) == [Delivered()] * 3
        await server.until_delivered(3)
        assert [each.path for each in server.requests()] == [BULK, TRIGGER, TRIGGER, TRIGGER]

    async def test_large_events_go_in_smaller_bulks(self, server: FakeNovu, build: Build) -> None:
        messages = self.several(20, extra={"note": ("text", "x" * 400_000)})
        assert await build(server.url).send(messages) == [Delivered()] * 20
        requests = server.requests(BULK)
        assert len(requests) == 2
        await server.until_delivered(20)

    async def test_a_bulk_answer_that_cannot_be_read_is_a_delivery_of_all(self, server: FakeNovu, build: Build) -> None:
        server.fault("garbage")
        assert await build(server.url).send(self.several(3)) == [Delivered()] * 3

    async def test_entries_the_sdk_cannot_read_are_still_told_apart(self, build: Build) -> None:
        entries = [
            {"acknowledged": True, "status": "novel", "error": "why"},
            {"acknowledged": True, "status": "processed"},
        ]
        async with Receiver(lambda _: of_json(201, {"data": entries})) as receiver:
            first, second = sorted(self.several(2), key=lambda each: each.id)
            results = await build(receiver.url).send([second, first])
        assert results == [Delivered(), Rejected(Reason.NOT_PROCESSED, "novel: why")]

    async def test_where_a_bulk_costs_more_of_the_rate_limit_singles_are_chosen(self, build: Build) -> None:
        async with fake_novu(Settings(api_key=API_KEY, rate_limited=True)) as server:
            channel = build(server.url)
            assert channel.take(50) == 50
            await sent(channel)
            assert (channel.take(50), channel.take(99), channel.take(100), channel.take(500)) == (1, 1, 100, 100)


class TestResolve:
    fired = message()

    @staticmethod
    def resolved(*earlier: Message, age: float = 0.0) -> Message:
        return message(Kind.RESOLVED, at=1_795_242_600_000, earlier=tuple(each.id for each in earlier), age=age)

    async def test_nothing_is_sent_unless_configured(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url)
        assert channel.wants_earlier == set()
        assert await sent(channel, self.resolved()) == Delivered("nothing is sent on resolve", told=False)
        assert not server.requests()

    async def test_a_workflow_of_its_own_is_triggered(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, on_resolve="trigger", resolved_workflow="all-clear")
        server.add_workflow("all-clear")
        what = self.resolved()
        assert await sent(channel, what) == Delivered()
        assert [(each["name"], each["transactionId"]) for each in bodies(server)] == [("all-clear", what.id)]

    async def test_cancel_stops_every_message_of_the_episode_that_still_waits(
        self, server: FakeNovu, build: Build
    ) -> None:
        channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
        assert channel.wants_earlier == {Kind.RESOLVED}
        update = message(Kind.UPDATED, at=1_795_242_549_000)
        await channel.send([self.fired])
        await channel.send([update])
        await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"] * 2)
        assert await sent(channel, self.resolved(self.fired, update)) == Delivered("took back 2 of 2", told=False)
        assert [each.state for each in server.notifications()] == ["cancelled"] * 2

    async def test_a_cancel_that_comes_too_early_is_repeated_until_it_is_true(
        self, server: FakeNovu, build: Build
    ) -> None:
        channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel", cancel_within="20s")
        server.stop_worker()
        await sent(channel, self.fired)
        pauses = []
        for age in (0.0, 0.25, 0.5, 1.0, 12.0, 19.9):
            result = await sent(channel, self.resolved(self.fired, age=age))
            assert isinstance(result, Retry)
            assert (result.reason, result.free) == (Reason.TOO_EARLY, True)
            pauses.append(result.after)
        assert pauses == [0.25, 0.25, 0.5, 1.0, 5.0, 0.25]
        server.heal()
        await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"])
        assert await sent(channel, self.resolved(self.fired, age=13.0)) == Delivered("took back 1 of 1", told=False)

    async def test_what_is_cancelled_is_not_asked_for_again(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
        update = message(Kind.UPDATED, at=1_795_242_549_000)
        await sent(channel, self.fired)
        await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"])
        assert isinstance(await sent(channel, self.resolved(self.fired, update)), Retry)
        asked = len(server.requests(method="DELETE"))
        assert isinstance(await sent(channel, self.resolved(self.fired, update, age=1.0)), Retry)
        assert len(server.requests(method="DELETE")) == asked + 1

    async def test_past_the_delay_false_is_taken_for_an_answer(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, on_resolve="cancel", cancel_within="5s")
        await sent(channel, self.fired)
        await server.until_delivered(1)
        assert await sent(channel, self.resolved(self.fired, age=5.0)) == Delivered("took back 0 of 1", told=False)

    async def test_cancel_and_delete_takes_back_what_was_delivered_in_app(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, on_resolve="cancel_and_delete")
        server.stop_worker()
        await sent(channel, self.fired)
        assert isinstance(await sent(channel, self.resolved(self.fired)), Retry)
        server.heal()
        await server.until_delivered(1)
        assert await sent(channel, self.resolved(self.fired, age=1.0)) == Delivered("took back 1 of 1", told=False)
        assert [each.deleted_at is not None for each in server.messages()] == [True]

    async def test_a_failing_cancel_is_retried(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
        server.fault("status", status=503, method="DELETE", times=1)
        result = await sent(channel, self.resolved(self.fired))
        assert isinstance(result, Retry)
        assert result.reason is Reason.SERVER_ERROR

    async def test_triggers_and_cancels_share_a_call(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, workflow=DELAYED_WORKFLOW, on_resolve="cancel")
        await sent(channel, self.fired)
        await server.until(lambda: [each.state for each in server.notifications()] == ["waiting"])
        others = TestBulk.several(2)
        results = await channel.send([others[0], self.resolved(self.fired), others[1]])
        assert results == [Delivered(), Delivered("took back 1 of 1", told=False), Delivered()]


class TestConfiguration:
    def settings(self, **changed: Any) -> dict[str, Any]:
        return {"type": "novu", "api_key": "S3CR3T", "workflow": "w", "recipients": ["a"], **changed}

    @pytest.mark.parametrize(
        ("changed", "complaint"),
        [
            ({"api_key": "S3CR3T\n"}, "an API key is one line"),
            ({"api_key": "  "}, "an API key is one line"),
            ({"url": "api.novu.co"}, "write the address of the API alone"),
            ({"url": "https://u:S3CR3T@api.novu.co"}, "write the address of the API alone"),
            ({"recipients": [""]}, "at least 1 character"),
            ({"recipients": ["  "]}, "match pattern"),
            ({"recipients": [{"colum": "x"}]}, "colum"),
            ({"payload": {"a": "{{ nope }}"}}, "payload.a: there is no variable 'nope'"),
            ({"actor": "{{ nope }}"}, "actor: there is no variable 'nope'"),
            ({"overrides": {"email": {"x": "{% if %}"}}}, "overrides.email.x: line 1"),
            ({"on_resolve": "trigger"}, "needs resolved_workflow"),
            ({"unknown_outcome_wait": "500ms"}, "greater than or equal to 1"),
        ],
    )
    def test_a_wrong_setting_is_refused_without_repeating_secrets(
        self, changed: dict[str, Any], complaint: str
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            novu.Config.model_validate(self.settings(**changed))
        assert complaint in str(caught.value)
        assert "S3CR3T" not in str(caught.value)

    @pytest.mark.parametrize("missing", ["workflow", "recipients"])
    def test_an_alert_that_says_too_little_is_refused_by_name(self, missing: str) -> None:
        fields = self.settings()
        del fields[missing]
        config = novu.Config.model_validate(fields)
        with pytest.raises(ConfigError, match=rf"alerts\.late\.notify: channel n: .*{missing}"):
            novu.build("n", config, {"late": config})

    def test_without_the_sdk_the_remedy_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "novu_py", None)
        for name in ("tocsin.channels.novu.api", "tocsin.channels.novu.channel"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        config = novu.Config.model_validate(self.settings())
        with pytest.raises(ConfigError, match=r"pip install 'tocsin\[novu\]'"):
            novu.build("n", config, {"late": config})


class TestVerify:
    async def test_nothing_to_complain_about(self, server: FakeNovu, build: Build) -> None:
        assert await build(server.url).verify() == []

    async def test_workflows_that_are_missing_or_inactive_are_named(self, server: FakeNovu, build: Build) -> None:
        channel = build(server.url, workflow=INACTIVE_WORKFLOW, on_resolve="trigger", resolved_workflow="no-such")
        assert await channel.verify() == [
            "the workflow 'inactive-one' is not active in Novu",
            "Novu has no workflow 'no-such'",
        ]

    async def test_a_wrong_key_is_named_as_such(self, server: FakeNovu, build: Build) -> None:
        assert await build(server.url, api_key="wrong").verify() == [
            "Novu does not take the api_key or the url: 401 API Key not found"
        ]

    async def test_an_unreachable_server_is_told(self, build: Build) -> None:
        async with Receiver() as receiver:
            url = receiver.url
        [problem] = await build(url).verify()
        assert problem.startswith("Novu does not answer: cannot connect")

    async def test_a_server_that_is_too_old_to_ask_is_no_problem(self, build: Build) -> None:
        def old(request: Any) -> Answer:
            if request.method == "DELETE":
                return of_json(200, {"data": False})
            return of_json(404, {"statusCode": 404, "message": f"Cannot GET {request.path}"})

        async with Receiver(old) as receiver:
            assert await build(receiver.url).verify() == []

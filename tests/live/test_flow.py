"""Events into a live broker, through a live Materialize, to people, gauges and Alertmanager: every promise of the first
half of tests/acceptance.md, and those of the second that are about SQL.

`materialize/` is applied unchanged (see conftest.py), so this wants a Materialize of its own. Each test has
organizations and items of its own, so that what is in the topics already does not matter. An event with an
earlier timestamp leaves its window earlier. Prometheus and Alertmanager take part where they are on the PATH.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.alertmanager import ALERTMANAGER, alertmanager
from support.live_model import (
    NEEDS_BOTH,
    Model,
    bid,
    changes,
    deployment,
    ended,
    firing,
    produce,
    send,
    tapped,
    until,
)
from support.live_stack import Stack, shown, stacked, until_gauge
from support.materialize.protocol import column
from support.notifications import LONG
from support.prometheus import PROMETHEUS, prometheus
from support.stack import alertmanager_file, prometheus_config
from support.stack_views import VIEWS
from support.tocsin import TocsinProcess, running
from support.waiting import until_some
from tocsin_demo.inbox.model import Step
from tocsin_producer.events import CUSTOMER_EVENTS, WINNING_BIDS, Kind, Schedule
from tocsin_producer.plan import Plan
from tocsin_producer.sinks.kafka import KafkaSink

pytestmark = [*NEEDS_BOTH, pytest.mark.timeout(420)]

WINDOW = 120
"""Seconds that a deployment counts, as shipped."""


@pytest.fixture
async def stack(shipped: tuple[Model, bool], tmp_path: Path) -> AsyncIterator[Stack]:
    model, history = shipped
    async with stacked(tmp_path, model, history=history) as made:
        yield made


def item() -> str:
    return f"item-{secrets.token_hex(4)}"


# 1. Everything starts with addresses only.


async def test_everything_starts_without_a_key(stack: Stack) -> None:
    async with stack.tocsin() as tocsin:
        for alert in stack.config["alerts"]:
            assert await tocsin.metric("tocsin_alert_up", alert=alert) == 1
        failed = await tocsin.gauge("tocsin_alert_source_errors_total")
        assert set(failed.values()) <= {0.0}, failed
        assert not tocsin.logged("level=error")


def test_views_have_the_columns_of_the_double(shipped: tuple[Model, bool]) -> None:
    model, _ = shipped
    model.run("SELECT 1")
    assert model.connection is not None
    for view, columns in VIEWS.items():
        described = model.connection.execute(f"SELECT * FROM {view} LIMIT 0".encode()).description or []
        found = [(each.name, each.type_code) for each in described]
        assert found == [(name, column(name, kind).oid) for name, kind in columns], view


# 2. The producer.


def test_producer_fills_topic_by_its_seed(shipped: tuple[Model, bool], sink: KafkaSink) -> None:
    model, _ = shipped
    organizations = tuple(f"org-{secrets.token_hex(4)}" for _ in range(4))
    plan = Plan(
        seed=7, organizations=organizations, rate=0, bid_rate=0, limit=30, first_spike_after=1, spike_interval=3
    )
    options = ("--seed", "7", "--rate", "0", "--bid-rate", "0", "--limit", "30", "--first-spike-after", "1s")
    with tapped(CUSTOMER_EVENTS) as tap:
        ended(produce(*options, "--spike-interval", "3s", "--organizations", ",".join(organizations)))

        def own() -> list[bytes]:
            return [value for value in tap() if value and any(name.encode() in value for name in organizations)]

        until(lambda: len(own()) >= 30, "thirty events")
        values = own()
    expected = Counter(fields(event.value or b"") for event in Schedule(plan).events(start=0))
    assert Counter(map(fields, values)) == expected
    assert sorted(Counter(values).values()) == [1] * 10 + [10, 10], "a spike is ten equal events"
    listed = ", ".join(f"'{name}'" for name in organizations)
    facts = (
        f"SELECT count(*), count(DISTINCT customer_id) FROM {{}}.fct_customer_events WHERE organization IN ({listed})"
    )
    until(lambda: model.run(facts) == [(30, 10)], "thirty facts of ten customers")


def fields(value: bytes) -> str:
    """An event without its time, which is that of the run."""
    event = json.loads(value)
    assert list(event) == ["customer_id", "customer_name", "deployment_type", "organization", "event_type", "event_ts"]
    assert isinstance(event.pop("event_ts"), int)
    return json.dumps(event, sort_keys=True)


# 3, 4. A spike is a row, a gauge and a message, and ends after its window.


async def test_spike_is_row_gauge_and_message(stack: Stack) -> None:
    model = stack.model
    organizations = [await stack.organization(threshold=9) for _ in range(4)]
    plan = Plan(organizations=tuple(organizations), rate=0, bid_rate=0, spike_interval=600, limit=20)
    events = [json.loads(event.value or b"") for event in Schedule(plan).events(start=0)]
    spiking = events[-1]["organization"]
    expected = sum(event["organization"] == spiking for event in events)
    options = ("--organizations", ",".join(organizations), "--rate", "0", "--bid-rate", "0", "--limit", "20")
    async with stack.tocsin() as tocsin:
        with model.subscriber("organization_alert") as lines:
            producer = produce(*options, "--spike-interval", "600s", "--first-spike-after", "4s")
            await stack.ask(lambda: ended(producer))
            await stack.until(lambda: firing(lines, spiking), "the row")
            dim = f"SELECT max(deployment_cnt) FROM {{}}.dim_deployments WHERE organization = '{spiking}'"
            await stack.ask(lambda: until(lambda: (model.run(dim)[0][0] or 0) >= plan.spike_size, "its counts"))
            await until_gauge(
                tocsin, "organization_alert", expected, organization=spiking, alert_name="deployment_spike"
            )
            await until_gauge(tocsin, "spike", 1, organization=spiking, alert_name="deployment_spike")
            await stack.until(lambda: stack.people(spiking) == {"deployment-spike": 1}, "the owner is notified")

            await stack.until(lambda: not firing(lines, spiking), "the end of the row", WINDOW + LONG)
            await until_gauge(tocsin, "organization_alert", None, organization=spiking)
            # One that lingers is 0 before it is gone, by its setting.
            await until_gauge(tocsin, "spike", 0, organization=spiking)
            await until_gauge(tocsin, "spike", None, organization=spiking)
            both = {"deployment-spike": 1, "deployment-calm": 1}
            await stack.until(lambda: stack.people(spiking) == both, "the owner is notified of the end")
            last = "SELECT extract(epoch FROM max(event_at))::float8 FROM {}.fct_customer_events"
            [(spiked,)] = await stack.ask(lambda: model.run(f"{last} WHERE organization = '{spiking}'"))
            over = changes(lines, spiking)[-1][0]
            assert 0 < over - (spiked + WINDOW) * 1000 <= 1000, "on the source's clock, to the second"
            audited = stack.audit(spiking)
            assert (audited["fired"], audited["resolved"]) == (1, 1)
            others = set(organizations) - {spiking}
            assert not any(one in line for one in others for line in lines)


# 5. Two types of deployment are one row.


async def test_gauge_stays_while_one_deployment_type_spikes(stack: Stack, sink: KafkaSink) -> None:
    organization = await stack.organization()
    async with stack.tocsin() as tocsin:
        now = int(time.time())
        early = deployment(organization, event_ts=now - WINDOW + 20)
        late = deployment(organization, event_ts=now - WINDOW + 45, deployment_type="on_prem", customer_id=2)
        send(sink, CUSTOMER_EVENTS, *[early] * 6, *[late] * 7)
        await until_gauge(tocsin, "organization_alert", 13, organization=organization)
        await until_gauge(tocsin, "organization_alert", 7, organization=organization)
        assert await shown(tocsin, "spike", organization=organization) == 1
        assert stack.audit(organization)["resolved"] == 0
        await until_gauge(tocsin, "organization_alert", None, organization=organization)
        await stack.until(lambda: stack.audit(organization)["resolved"] == 1, "the end is notified")
        assert stack.audit(organization)["fired"] == 1


# 6. After a crash.


async def test_after_crash_nothing_is_missed(stack: Stack, sink: KafkaSink) -> None:
    model = stack.model
    before, meanwhile = await stack.organization(), await stack.organization()
    async with stack.tocsin() as tocsin:
        send(sink, CUSTOMER_EVENTS, *[deployment(before)] * 6)
        await stack.until(lambda: stack.people(before)["deployment-spike"] == 1, "the first is notified")
        await tocsin.kill()
    send(sink, CUSTOMER_EVENTS, *[deployment(meanwhile)] * 8)
    await stack.ask(lambda: model.set_threshold(before, 20))
    seen = [[8], []]
    await stack.ask(lambda: until(lambda: [_counts(model, one) for one in (meanwhile, before)] == seen, "the view"))
    async with running(stack.folder, stack.config) as tocsin:
        await until_some(lambda: _is_ready(tocsin), "ready", LONG)
        page = {
            dict(labels)["organization"]: value for labels, value in (await tocsin.gauge("organization_alert")).items()
        }
        assert (page.get(before), page.get(meanwhile)) == (None, 8)
        await until_some(lambda: _is_the_view(stack, tocsin), "the page is the view", LONG)
        await stack.until(lambda: stack.people(meanwhile) == {"deployment-spike": 1}, "the second is notified")
        over = {"deployment-spike": 1, "deployment-calm": 1}
        await stack.until(lambda: stack.people(before) == over, "the end of the first is notified")
        if stack.history:
            assert await tocsin.metric("tocsin_alert_gaps_total", alert="deployment_spike") == 0


def _counts(model: Model, organization: str) -> list[int]:
    return [row[3] for row in model.alert(organization)]


async def _is_ready(tocsin: TocsinProcess) -> bool:
    return not await tocsin.ready()


async def _page(tocsin: TocsinProcess) -> dict[str, float]:
    series = await tocsin.gauge("organization_alert")
    return {dict(labels)["organization"]: value for labels, value in series.items()}


async def _is_the_view(stack: Stack, tocsin: TocsinProcess) -> bool:
    """Whether the page equals the view. Other programs may send events meanwhile, so the view is read twice."""
    query = "SELECT organization, deployment_cnt FROM {}.organization_alert"
    view = await stack.ask(lambda: dict(stack.model.run(query)))
    return await _page(tocsin) == view == await stack.ask(lambda: dict(stack.model.run(query)))


# 7. Materialize is unavailable.


async def test_outage_of_materialize_shows(stack: Stack, sink: KafkaSink) -> None:
    before, meanwhile = await stack.organization(), await stack.organization()
    once = {"deployment-spike": 1}
    stack.config["sources"]["materialize"] |= {"progress_timeout": "5s", "stale_after": "5s", "backoff_max": "1s"}
    async with stack.tocsin() as tocsin:
        send(sink, CUSTOMER_EVENTS, *[deployment(before)] * 6)
        await until_gauge(tocsin, "organization_alert", 6, organization=before)
        await stack.proxy.cut()
        await tocsin.until_not_ready("deployment_spike")
        assert await tocsin.metric("tocsin_alert_up", alert="deployment_spike") == 0
        await until_gauge(tocsin, "organization_alert", None, organization=before)
        assert stack.audit(before)["resolved"] == 0, "an outage of Materialize ends no alert"
        send(sink, CUSTOMER_EVENTS, *[deployment(meanwhile)] * 6)
        await stack.ask(lambda: until(lambda: stack.model.alert(meanwhile), "a row that Tocsin does not see"))
        await stack.proxy.open()
        await until_some(lambda: _is_ready(tocsin), "ready", LONG)
        for organization in (before, meanwhile):
            await until_gauge(tocsin, "organization_alert", 6, organization=organization)
            await stack.until(lambda name=organization: stack.people(name) == once, "notified once")  # type: ignore[misc]
        if stack.history:
            assert await tocsin.metric("tocsin_alert_gaps_total", alert="deployment_spike") == 0


# 7, 8. Alertmanager.


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not on the PATH")
@pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")
async def test_alertmanager_notifies_organizations_and_outage(stack: Stack, sink: KafkaSink) -> None:
    inbox = stack.inbox
    names = [await stack.organization() for _ in range(2)]
    file = alertmanager_file(stack.folder, inbox.url)
    async with (
        stack.tocsin() as tocsin,
        alertmanager(stack.folder, file) as server,
        prometheus(stack.folder, prometheus_config(stack.config["web"]["listen"], server.port)),
    ):
        now = int(time.time())
        for name in names:
            send(sink, CUSTOMER_EVENTS, *[deployment(name, event_ts=now - WINDOW + 45)] * 6)
        for name in names:
            await until_gauge(tocsin, "organization_alert", 6, organization=name)
        begun = {("firing", name) for name in names}
        await stack.until(lambda: begun <= inbox.alerts().keys(), "both are notified")
        over = {("resolved", name) for name in names}
        await stack.until(lambda: over <= inbox.alerts().keys(), "the end of both is notified", 2 * LONG)
        for group in inbox.groups():
            [organization] = {alert["labels"]["organization"] for alert in group["alerts"]}
            assert group["groupLabels"]["organization"] == organization
        await stack.proxy.cut()
        await stack.until(lambda: inbox.groups("TocsinSourceDown"), "the alert about Materialize", 2 * LONG)


# 10. Setting up again.


async def test_second_setup_leaves_tocsin_alone(stack: Stack, sink: KafkaSink) -> None:
    organization = await stack.organization()
    async with stack.tocsin() as tocsin:
        for _ in range(2):
            printed = await stack.ask(stack.model.setup)
            words = {line.split()[0] for line in printed.splitlines()[:-1]}
            assert words <= {"unchanged", "skipped", "waiting"}, printed
        send(sink, CUSTOMER_EVENTS, *[deployment(organization)] * 6)
        await stack.until(lambda: stack.people(organization) == {"deployment-spike": 1}, "notified")
        failed = await tocsin.gauge("tocsin_alert_source_errors_total")
        assert set(failed.values()) <= {0.0}, failed
        assert len(tocsin.logged("source up")) == len(stack.config["alerts"])


# 11. Bad events.


async def test_bad_events_are_counted_and_views_go_on(stack: Stack, sink: KafkaSink) -> None:
    """Malformed in every way, without a value, oversized, and dated far ahead. Each message is accounted for: it is a
    fact, or it is rejected, or it had no value and is passed over."""
    organizations = tuple(f"org-{secrets.token_hex(4)}" for _ in range(4))
    plan = Plan(organizations=organizations, rate=100, bid_rate=0, spike_interval=0, limit=300, malformed=1, future=0.5)
    events = list(Schedule(plan).events(start=0))
    bad = [event for event in events if event.kind in {Kind.MALFORMED, Kind.FUTURE} and event.value is not None]
    sound = sum(event.kind not in {Kind.MALFORMED, Kind.FUTURE} for event in events)
    assert any(event.value is None for event in events)
    assert any(len(event.value or b"") > 65_536 for event in events)
    options = ("--malformed", "1", "--future", "0.5", "--rate", "100", "--bid-rate", "0", "--spike-interval", "0")

    began = time.time() - 1
    rejected = f"SELECT count(*) FROM {{}}.rejected_events WHERE received_at::timestamptz >= to_timestamp({began:.0f})"

    async def all_are_shown() -> bool:
        everything = f"SELECT count(*) FROM {{}}.rejected_events WHERE topic = '{CUSTOMER_EVENTS}'"
        [(count,)] = await stack.ask(lambda: stack.model.run(everything))
        return bool(await shown(tocsin, "rejected_events", topic=CUSTOMER_EVENTS) == count)

    async with stack.tocsin() as tocsin:
        with tapped(CUSTOMER_EVENTS) as tap:
            producer = produce(*options, "--limit", "300", "--organizations", ",".join(organizations))
            await stack.ask(lambda: ended(producer))
            await stack.ask(lambda: until(lambda: len(tap()) >= len(events), "every message is in the topic"))
        await stack.ask(lambda: until(lambda: stack.model.run(rejected) == [(len(bad),)], "the bad ones are counted"))
        await until_some(all_are_shown, "the gauge shows all that is rejected", LONG)
        listed = ", ".join(f"'{name}'" for name in organizations)
        facts = f"SELECT count(*) FROM {{}}.fct_customer_events WHERE organization IN ({listed})"
        assert await stack.ask(lambda: stack.model.run(facts)) == [(sound,)]
        reasons = {dict(labels)["reason"] for labels in await tocsin.gauge("rejected_events")}
        assert {
            "not UTF-8",
            "not a flat JSON object",
            "larger than 65536 bytes",
            "event_ts is in the future",
        } <= reasons
        organization = await stack.organization()
        send(sink, CUSTOMER_EVENTS, *[deployment(organization)] * 6)
        await stack.until(lambda: stack.people(organization) == {"deployment-spike": 1}, "the views go on")


# Of the second list: rules are rows.


async def test_added_rule_fires_and_removed_rule_resolves(stack: Stack, sink: KafkaSink) -> None:
    model, name = stack.model, item()
    async with stack.tocsin() as tocsin:
        send(sink, WINNING_BIDS, bid(name, 1, "50"), bid(name, 2, "50.01"))
        await stack.ask(
            lambda: until(
                lambda: len(model.run(f"SELECT 1 FROM {{}}.winning_bids WHERE item = '{name}'")) == 2, "the bids"
            )
        )
        await stack.ask(lambda: model.add_rule(name, "50"))
        await until_gauge(tocsin, "active_alerts", 50.01, item=name, severity="info")
        await stack.until(lambda: stack.sold(name) == {"fired": 1}, "the bid above the price is notified")
        await stack.ask(lambda: model.change_rule(name, "price_above = 10"))
        await stack.until(lambda: stack.sold(name) == {"fired": 2}, "the other one too")
        await stack.ask(lambda: model.change_rule(name, "severity = 'critical'"))
        await stack.until(lambda: stack.sold(name) == {"fired": 2, "updated": 2}, "a change is no end")
        await stack.ask(lambda: model.remove_rule(name))
        await stack.until(lambda: stack.sold(name) == {"fired": 2, "updated": 2, "resolved": 2}, "the end of both")
        await until_gauge(tocsin, "active_alerts", None, item=name)
        await stack.ask(lambda: model.add_rule(name, "50.005"))
        await stack.until(lambda: stack.sold(name)["fired"] == 3, "fires again, under another id")


async def _arrived(stack: Stack, name: str, bids: int) -> None:
    """Wait until this number of bids for an item are facts."""
    query = f"SELECT count(*) FROM {{}}.winning_bids WHERE item = '{name}'"
    await stack.ask(lambda: until(lambda: stack.model.run(query) == [(bids,)], "the bids"))


async def test_equal_rows_of_three_rules_are_one_firing(stack: Stack, sink: KafkaSink) -> None:
    """Three rules of one name catch one bid: three equal rows. The other item fires after two of them are gone."""
    model, name, marker = stack.model, item(), item()
    rules = ", ".join(f"('{name}', '{name}', {above}, 'info')" for above in (1, 2, 3))
    async with stack.tocsin() as tocsin:
        send(sink, WINNING_BIDS, bid(name), bid(marker))
        await stack.ask(
            lambda: until(lambda: model.run(f"SELECT 1 FROM {{}}.winning_bids WHERE item = '{marker}'"), "the bids")
        )
        await stack.ask(lambda: model.run(f"INSERT INTO {{}}.auction_alerts VALUES {rules}"))
        await stack.until(lambda: stack.sold(name) == {"fired": 1}, "one firing")
        await stack.ask(
            lambda: model.run(f"DELETE FROM {{}}.auction_alerts WHERE item_name = '{name}' AND price_above > 1")
        )
        await stack.ask(lambda: model.add_rule(marker, "1"))
        await stack.until(lambda: stack.sold(marker) == {"fired": 1}, "the marker")
        assert stack.sold(name) == {"fired": 1}
        assert await shown(tocsin, "active_alerts", item=name) == 50
        await stack.ask(lambda: model.remove_rule(name))
        await stack.until(lambda: stack.sold(name) == {"fired": 1, "resolved": 1}, "the end")
        await stack.ask(lambda: model.remove_rule(marker))


async def test_rule_removed_in_time_is_cancelled(stack: Stack, sink: KafkaSink) -> None:
    """The workflow waits; the cancel comes before its delay is over."""
    model, name = stack.model, item()
    steps = (Step(type="delay", seconds=60), Step(type="in_app"))
    stack.inbox.core.engine.add_workflow("auction-rule", now=0, steps=steps)

    def states() -> list[str]:
        sent = stack.inbox.core.engine.worker.notifications.values()
        return [each.state for each in sent if name in json.dumps(each.payload)]

    async with stack.tocsin():
        send(sink, WINNING_BIDS, bid(name))
        await stack.ask(
            lambda: until(lambda: model.run(f"SELECT 1 FROM {{}}.winning_bids WHERE item = '{name}'"), "the bid")
        )
        await stack.ask(lambda: model.add_rule(name, "1"))
        await stack.until(lambda: states() == ["waiting"], "the workflow waits")
        await stack.ask(lambda: model.remove_rule(name))
        await stack.until(lambda: states() == ["cancelled"], "taken back")


async def test_model_with_odd_name_works(stack: Stack, sink: KafkaSink) -> None:
    """Capitals, quotes, blanks and semicolons in the name of the schema."""
    name, odd = item(), f'Odd "Name"; {secrets.token_hex(4)}'
    other = Model(schema=odd)
    quoted = '"' + odd.replace('"', '""') + '"'
    sold = stack.config["alerts"]["auction_rule"] | {"relation": f"{quoted}.active_alerts"}
    stack.config["alerts"] = {"auction_rule": sold}
    try:
        await stack.ask(other.setup)
        await stack.ask(other.hydrated)
        async with stack.tocsin() as tocsin:
            send(sink, WINNING_BIDS, bid(name))
            await stack.ask(lambda: other.add_rule(name, "1"))
            await until_gauge(tocsin, "active_alerts", 50, item=name)
            await stack.until(lambda: stack.sold(name) == {"fired": 1}, "notified")
    finally:
        await stack.ask(lambda: other.run("DROP SCHEMA IF EXISTS {} CASCADE"))
        assert other.connection is not None
        other.connection.close()

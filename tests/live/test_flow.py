"""Events into a live broker, through a live Materialize, to people and gauges: the promises of tests/acceptance.md
about alerts from a stream. `materialize/` is applied unchanged (see conftest.py); test_speed.py adds Alertmanager.
"""

import json
import secrets
import time
from asyncio import to_thread
from datetime import datetime

import pytest

from live.model import (
    NEEDS_BOTH,
    Model,
    Stack,
    bid,
    deployment,
    ended,
    produce,
    send,
    shown,
    until_gauge,
)
from support.materialize.protocol import column
from support.notifications import LONG, until_ready
from support.stack_views import VIEWS
from support.tocsin import TocsinProcess, running
from support.waiting import until, until_some
from tocsin_producer.events import CUSTOMER_EVENTS, WINNING_BIDS, Kind, Schedule
from tocsin_producer.plan import Plan
from tocsin_producer.sinks.kafka import KafkaSink

pytestmark = [*NEEDS_BOTH, pytest.mark.timeout(420)]

WINDOW = 120
"""Seconds that a deployment counts, as shipped. An event with an earlier timestamp leaves the window earlier."""


def item() -> str:
    return f"item-{secrets.token_hex(4)}"


async def failures(tocsin: TocsinProcess) -> set[float]:
    """The different numbers of source errors of the alerts."""
    return {*(await tocsin.gauge("tocsin_alert_source_errors_total")).values()} - {0.0}


def test_views_have_the_columns_of_the_double(model: Model) -> None:
    with model.connect() as connection:
        for view, columns in VIEWS.items():
            described = connection.execute(f"SELECT * FROM {view} LIMIT 0".encode()).description or []
            found = [(each.name, each.type_code) for each in described]
            assert found == [(name, column(name, kind).oid) for name, kind in columns], view


async def test_spike_is_row_gauge_and_message(stack: Stack) -> None:
    """A spike of the producer, from its first event until its window has passed."""
    organizations = [await to_thread(stack.model.organization, 9) for _ in range(4)]
    plan = Plan(organizations=tuple(organizations), rate=0, bid_rate=0, spike_interval=600, limit=20)
    events = [json.loads(event.value or b"") for event in Schedule(plan).events(start=0)]
    spiking = events[-1]["organization"]
    expected = sum(event["organization"] == spiking for event in events)
    options = ("--organizations", ",".join(organizations), "--rate", "0", "--bid-rate", "0", "--limit", "20")
    async with stack.tocsin() as tocsin:
        assert not await failures(tocsin)
        await to_thread(produce, *options, "--spike-interval", "600s", "--first-spike-after", "4s")
        dim = f"SELECT max(deployment_cnt) >= {plan.spike_size} FROM {{}}.dim_deployments"
        await stack.until_rows(f"{dim} WHERE organization = '{spiking}'", (True,))
        await until_gauge(tocsin, "organization_alert", expected, organization=spiking, alert_name="deployment_spike")
        assert await shown(tocsin, "spike", organization=spiking, alert_name="deployment_spike") == 1
        await until(lambda: stack.people(spiking) == {"deployment-spike": 1}, "the owner is notified", LONG)

        await until_gauge(tocsin, "organization_alert", None, WINDOW + LONG, organization=spiking)
        # One that lingers is 0 before it is gone, by its setting.
        await until_gauge(tocsin, "spike", 0, organization=spiking)
        await until_gauge(tocsin, "spike", None, organization=spiking)
        both = {"deployment-spike": 1, "deployment-calm": 1}
        await until(lambda: stack.people(spiking) == both, "the owner is notified of the end", LONG)
        assert (stack.audit(spiking)["fired"], stack.audit(spiking)["resolved"]) == (1, 1)
        assert not any(stack.audit(other) for other in {*organizations} - {spiking})
    [end] = [
        datetime.fromisoformat(body["at"]).timestamp()
        for body in stack.inbox.delivered("audit")
        if (body["status"], body["row"].get("organization")) == ("resolved", spiking)
    ]
    last = "SELECT extract(epoch FROM max(event_at))::float8 FROM {}.fct_customer_events"
    [(spiked,)] = await to_thread(stack.model.run, f"{last} WHERE organization = '{spiking}'")
    assert 0 < end - spiked - WINDOW <= 1, "on the source's clock, to the second"


async def test_gauge_stays_while_one_deployment_type_spikes(stack: Stack, sink: KafkaSink) -> None:
    organization = await to_thread(stack.model.organization)
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
        await until(lambda: stack.audit(organization)["resolved"] == 1, "the end is notified", LONG)
        assert stack.audit(organization)["fired"] == 1


async def test_after_crash_nothing_is_missed(stack: Stack, sink: KafkaSink) -> None:
    before, meanwhile = [await to_thread(stack.model.organization) for _ in range(2)]
    async with stack.tocsin() as tocsin:
        send(sink, CUSTOMER_EVENTS, *[deployment(before)] * 6)
        await until(lambda: stack.people(before)["deployment-spike"] == 1, "the first is notified", LONG)
        await tocsin.kill()
    send(sink, CUSTOMER_EVENTS, *[deployment(meanwhile)] * 8)
    raised = f"UPDATE {{}}.organizations SET threshold = 20 WHERE organization = '{before}'"
    await to_thread(stack.model.run, raised)
    view = "SELECT organization, deployment_cnt FROM {}.organization_alert WHERE organization IN "
    await stack.until_rows(view + str((before, meanwhile)), (meanwhile, 8))
    async with running(stack.folder, stack.config) as tocsin:
        await until_ready(tocsin)
        assert await shown(tocsin, "organization_alert", organization=before) is None
        assert await shown(tocsin, "organization_alert", organization=meanwhile) == 8
        await until_some(lambda: page_is_the_view(stack, tocsin), "the page is the view", LONG)
        await until(lambda: stack.people(meanwhile) == {"deployment-spike": 1}, "the second is notified", LONG)
        over = {"deployment-spike": 1, "deployment-calm": 1}
        await until(lambda: stack.people(before) == over, "the end of the first is notified", LONG)
        if stack.history:
            assert await tocsin.metric("tocsin_alert_gaps_total", alert="deployment_spike") == 0


async def page_is_the_view(stack: Stack, tocsin: TocsinProcess) -> bool:
    """Whether the page equals the view. Other programs may send events meanwhile, so the view is read twice."""
    query = "SELECT organization, deployment_cnt FROM {}.organization_alert"
    view = dict(await to_thread(stack.model.run, query))
    series = await tocsin.gauge("organization_alert")
    page = {dict(labels)["organization"]: value for labels, value in series.items()}
    return page == view == dict(await to_thread(stack.model.run, query))


async def test_outage_of_materialize_shows(stack: Stack, sink: KafkaSink) -> None:
    before, meanwhile = [await to_thread(stack.model.organization) for _ in range(2)]
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
        unseen = f"SELECT deployment_cnt FROM {{}}.organization_alert WHERE organization = '{meanwhile}'"
        await stack.until_rows(unseen, (6,))
        await stack.proxy.open()
        await until_ready(tocsin)
        for organization in (before, meanwhile):
            await until_gauge(tocsin, "organization_alert", 6, organization=organization)
            notified = {organization: {"deployment-spike": 1}}
            await until(lambda once=notified: {name: stack.people(name) for name in once} == once, "once", LONG)  # type: ignore[misc]
        if stack.history:
            assert await tocsin.metric("tocsin_alert_gaps_total", alert="deployment_spike") == 0


async def test_second_setup_leaves_tocsin_alone(stack: Stack, sink: KafkaSink) -> None:
    """Two at once."""
    organization = await to_thread(stack.model.organization)
    async with stack.tocsin() as tocsin:
        for setup in [stack.model.start(), stack.model.start()]:
            printed = await to_thread(ended, setup)
            words = {line.split()[0] for line in printed.splitlines()[:-1]}
            assert words <= {"unchanged", "skipped", "waiting"}, printed
        send(sink, CUSTOMER_EVENTS, *[deployment(organization)] * 6)
        await until(lambda: stack.people(organization) == {"deployment-spike": 1}, "notified", LONG)
        assert not await failures(tocsin)
        assert len(tocsin.logged("source up")) == len(stack.config["alerts"])


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
    rejected = "SELECT count(*) FROM {}.rejected_events WHERE "

    async def all_are_shown() -> bool:
        [(count,)] = await to_thread(stack.model.run, f"{rejected}topic = '{CUSTOMER_EVENTS}'")
        return await shown(tocsin, "rejected_events", topic=CUSTOMER_EVENTS) == float(count)

    async with stack.tocsin() as tocsin:
        await to_thread(produce, *options, "--limit", "300", "--organizations", ",".join(organizations))
        since = f"{rejected}received_at::timestamptz >= to_timestamp({began:.0f})"
        await stack.until_rows(since, (len(bad),))
        await until_some(all_are_shown, "the gauge shows all that is rejected", LONG)
        facts = f"SELECT count(*) FROM {{}}.fct_customer_events WHERE organization IN {organizations}"
        await stack.until_rows(facts, (sound,))
        reasons = {dict(labels)["reason"] for labels in await tocsin.gauge("rejected_events")}
        ways = {"not UTF-8", "not a flat JSON object", "larger than 65536 bytes", "event_ts is in the future"}
        assert ways <= reasons
        organization = await to_thread(stack.model.organization)
        send(sink, CUSTOMER_EVENTS, *[deployment(organization)] * 6)
        await until(lambda: stack.people(organization) == {"deployment-spike": 1}, "the views go on", LONG)


async def test_added_rule_fires_and_removed_rule_resolves(stack: Stack, sink: KafkaSink) -> None:
    model, name = stack.model, item()
    async with stack.tocsin() as tocsin:
        send(sink, WINNING_BIDS, bid(name, 1, "50"), bid(name, 2, "50.01"))
        await arrived(stack, name, 2)
        await to_thread(model.add_rule, name, "50")
        await until_gauge(tocsin, "active_alerts", 50.01, item=name, severity="info")
        for change, expected in (
            (f"UPDATE {{}}.auction_alerts SET price_above = 10 WHERE alert_name = '{name}'", {"fired": 2}),
            (
                f"UPDATE {{}}.auction_alerts SET severity = 'critical' WHERE alert_name = '{name}'",
                {"fired": 2, "updated": 2},
            ),
            (
                f"DELETE FROM {{}}.auction_alerts WHERE alert_name = '{name}'",
                {"fired": 2, "updated": 2, "resolved": 2},
            ),
        ):
            await to_thread(model.run, change)
            await until(lambda wanted=expected: stack.sold(name) == wanted, change, LONG)  # type: ignore[misc]
        await until_gauge(tocsin, "active_alerts", None, item=name)
        await to_thread(model.add_rule, name, "50.005")
        await until(lambda: stack.sold(name)["fired"] == 3, "fires again, under another id", LONG)


async def arrived(stack: Stack, name: str, bids: int) -> None:
    """Wait until this number of bids for an item are facts."""
    await stack.until_rows(f"SELECT count(*) FROM {{}}.winning_bids WHERE item = '{name}'", (bids,))


async def test_model_with_odd_name_works(stack: Stack, sink: KafkaSink) -> None:
    """Capitals, quotes, blanks and semicolons in the name of the schema."""
    name, odd = item(), f'Odd "Name"; {secrets.token_hex(4)}'
    other = Model(odd)
    quoted = '"' + odd.replace('"', '""') + '"'
    sold = stack.config["alerts"]["auction_rule"] | {"relation": f"{quoted}.active_alerts"}
    stack.config["alerts"] = {"auction_rule": sold}
    try:
        await to_thread(other.setup)
        await to_thread(other.hydrated)
        async with stack.tocsin() as tocsin:
            send(sink, WINNING_BIDS, bid(name))
            await to_thread(other.add_rule, name, "1")
            await until_gauge(tocsin, "active_alerts", 50, item=name)
            await until(lambda: stack.sold(name) == {"fired": 1}, "notified", LONG)
    finally:
        await to_thread(other.drop)

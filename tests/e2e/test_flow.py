"""The whole flow with the files of the full stack: the way of a row to people and Alertmanager, through outages.

Tocsin, Prometheus and Alertmanager are real and read the shipped files; only addresses and paths differ. The inbox is
the demo's, and a double of Materialize holds the rows. So the delays are those of the stack: up to 5 s to a scrape,
5 s to the rule, 1 s to the message, and 15 s more until an alert may end.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.alertmanager import Alertmanager, alertmanager
from support.inbox_server import InboxServer, inbox_server
from support.materialize import MaterializeDouble, Relation
from support.prometheus import Prometheus, prometheus
from support.stack import KEY_FILE, alertmanager_file, prometheus_config, tocsin_config
from support.stack_views import VIEWS
from support.tocsin import TocsinProcess, running, series
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e

PROMPT = 15.0
"""Seconds until a person is notified, at most. A second or two is usual."""
SCRAPED = 40.0
"""Seconds until Alertmanager notifies, at most. 12 on an idle machine."""
ENDED = 60.0
"""Seconds until Alertmanager reports the end of an alert: `keep_firing_for` and `group_interval` come on top."""

OWNERS = {"A": ("critical", "ann"), "B": ("warning", "bob"), "C": ("critical", "cat"), "D": ("warning", "dan")}

Row = tuple[str | int, ...]


def spike(organization: str, deployments: int = 10) -> Row:
    """A row of `demo.organization_alert`."""
    severity, owner = OWNERS[organization]
    return ("deployment_spike", organization, severity, owner, deployments, 3)


@dataclass(slots=True, kw_only=True)
class Flow:
    """The running stack. Tocsin always listens at the same port, or Prometheus would not find it again."""

    folder: Path
    spikes: Relation
    inbox: InboxServer
    alertmanager: Alertmanager
    prometheus: Prometheus
    config: dict[str, Any]
    timeline: list[tuple[str, float]] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @asynccontextmanager
    async def tocsin(self) -> AsyncIterator[TocsinProcess]:
        """Start Tocsin and wait until it is ready."""
        async with running(self.folder, self.config) as process:
            await process.until_ready()
            yield process

    async def tocsin_is_missing(self) -> bool:
        """Whether Prometheus fails to scrape Tocsin."""
        return bool(await self.prometheus.query('up{job="tocsin"} == 0'))

    async def starts(self, organization: str) -> float:
        """How often the alert of an organization has started, according to Prometheus."""
        alert = f'ALERTS_FOR_STATE{{alertname="DeploymentSpike", organization="{organization}"}}'
        [found] = await self.prometheus.query(f"1 + changes({alert}[5m])")
        return float(found["value"][1])

    async def see(self, what: str, condition: Callable[[], object], within: float) -> None:
        """Wait until a condition holds, and note the time."""
        await until(condition, what, within)
        self.note(what)

    def note(self, what: str) -> None:
        """Note the time of a step."""
        self.timeline.append((what, round(time.monotonic() - self._began, 1)))

    async def failed_at_alertmanager(self) -> bool:
        """Whether a notification of Alertmanager to the inbox has failed."""
        async with self.alertmanager.client.get(f"{self.alertmanager.url}/metrics") as response:
            page = series(await response.text())
        return any(
            value for (name, _), value in page.items() if name == "alertmanager_notification_requests_failed_total"
        )


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Flow]:
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        double = await enter(MaterializeDouble(clusters=("quickstart", "alerting")))
        spikes, *_ = [double.create(view, columns, retain=60_000) for view, columns in VIEWS.items()]
        inbox = await enter(inbox_server(KEY_FILE.read_text(encoding="utf-8").strip()))
        config = tocsin_config(tmp_path, inbox.url, {"host": "127.0.0.1", "port": double.port})
        server = await enter(alertmanager(tmp_path, alertmanager_file(tmp_path, inbox.url)))
        watching = await enter(prometheus(tmp_path, prometheus_config(config["web"]["listen"], server.port)))
        yield Flow(folder=tmp_path, spikes=spikes, inbox=inbox, alertmanager=server, prometheus=watching, config=config)


async def test_rows_arrive_through_outage_and_crash(flow: Flow) -> None:
    async with flow.tocsin() as tocsin:
        flow.note("ready")
        await two_organizations_fire_at_once(flow, tocsin)
        await flow.inbox.close()
        flow.note("the inbox is down")
        await one_recovers_and_another_fires(flow, tocsin)
        await tocsin.kill()
        flow.note("Tocsin is killed")
    rows_change_while_tocsin_is_down(flow)
    await until_some(flow.tocsin_is_missing, "Prometheus misses Tocsin", SCRAPED)
    flow.note("Prometheus misses Tocsin")
    async with flow.tocsin() as tocsin:
        flow.note("Tocsin is back")
        await until_some(lambda: shown(tocsin, B=25, C=10, D=10), "the gauge")
        await until_some(flow.failed_at_alertmanager, "Alertmanager fails too", within=SCRAPED)
        await flow.inbox.open()
        flow.note("the inbox is back")
        await missed_notifications_arrive(flow)
        await nothing_is_pending(tocsin)
    every_notification_arrived_once(flow)
    assert await flow.starts("B") == 1, "the crash must not end the alert and start it again"
    print(*flow.timeline, sep="\n")  # shown where it fails, or with -s: how long each step took


async def two_organizations_fire_at_once(flow: Flow, tocsin: TocsinProcess) -> None:
    """One batch of the view, two people, and two messages of Alertmanager."""
    inbox = flow.inbox
    flow.spikes.insert(spike("A"), spike("B"))
    flow.note("A and B fire")
    await until_some(lambda: shown(tocsin, A=10, B=10), "the gauge", PROMPT)
    flow.note("the gauge shows them")
    expected = {("ann", "deployment-spike", "A"): 1, ("bob", "deployment-spike", "B"): 1}
    await flow.see("their owners are notified", lambda: inbox.people() == expected, PROMPT)
    both = {("firing", "A"), ("firing", "B")}
    await flow.see("Alertmanager has notified of both", lambda: both <= inbox.alerts().keys(), SCRAPED)


async def one_recovers_and_another_fires(flow: Flow, tocsin: TocsinProcess) -> None:
    """While the inbox is down, notifications stay in the outbox."""
    flow.spikes.change([(-1, spike("A")), (1, spike("C"))])
    flow.note("A recovers, C fires")
    for channel in ("people", "audit"):
        await tocsin.until_metric("tocsin_channel_pending", 2.0, channel=channel)
    await until_some(lambda: shown(tocsin, B=10, C=10), "the gauge")


def rows_change_while_tocsin_is_down(flow: Flow) -> None:
    """A new row, another count, and a row that comes and goes, all while Tocsin is down."""
    flow.spikes.insert(spike("D"))
    flow.spikes.update(spike("B"), spike("B", 25))
    flow.spikes.insert(spike("A", 11))
    flow.spikes.delete(spike("A", 11))


async def missed_notifications_arrive(flow: Flow) -> None:
    inbox = flow.inbox
    missed = {
        ("ann", "deployment-calm", "A"),
        ("cat", "deployment-spike", "C"),
        ("dan", "deployment-spike", "D"),
    }
    begun, over = {("firing", "C"), ("firing", "D")}, ("resolved", "A")
    await asyncio.gather(
        flow.see("the owners get the missed notifications", lambda: missed <= inbox.people().keys(), SCRAPED),
        flow.see("Alertmanager has notified of C and D", lambda: begun <= inbox.alerts().keys(), SCRAPED),
        flow.see("Alertmanager has notified that A ended", lambda: over in inbox.alerts(), ENDED),
    )


async def nothing_is_pending(tocsin: TocsinProcess) -> None:
    for channel in ("people", "audit"):
        await tocsin.until_metric("tocsin_channel_pending", 0.0, channel=channel)
    for alert in ("deployment_spike", "auction_rule", "rejected_event"):
        assert await tocsin.metric("tocsin_alert_gaps_total", alert=alert) in (None, 0.0)
    assert not tocsin.logged("Traceback")


def every_notification_arrived_once(flow: Flow) -> None:
    """Each event was sent under one id on each way. A's second episode was too short for a scrape of Prometheus; Tocsin
    reports it."""
    inbox = flow.inbox
    assert inbox.people() == {
        ("ann", "deployment-spike", "A"): 2,
        ("ann", "deployment-calm", "A"): 2,
        ("bob", "deployment-spike", "B"): 1,
        ("cat", "deployment-spike", "C"): 1,
        ("dan", "deployment-spike", "D"): 1,
    }
    assert inbox.core.engine.counters.doubles == 0
    assert inbox.audit() == {
        ("fired", "A"): 2,
        ("resolved", "A"): 2,
        ("fired", "B"): 1,
        ("updated", "B"): 1,
        ("fired", "C"): 1,
        ("fired", "D"): 1,
    }
    # B fired all the time: neither the crash nor its new count ended it, or made it another alert.
    assert inbox.alerts() == {
        ("firing", "A"): 1,
        ("resolved", "A"): 1,
        ("firing", "B"): 1,
        ("firing", "C"): 1,
        ("firing", "D"): 1,
    }
    for group in inbox.groups():
        assert {alert["labels"]["organization"] for alert in group["alerts"]} == {
            group["groupLabels"].get("organization")
        }
        assert not group["truncatedAlerts"]


async def shown(tocsin: TocsinProcess, **counts: int) -> bool:
    """Whether the gauge shows these organizations with these counts, and no other."""
    found = {
        dict(labels)["organization"]: value for labels, value in (await tocsin.gauge("organization_alert")).items()
    }
    assert found == counts, f"shown {found}, not {counts}"
    return True

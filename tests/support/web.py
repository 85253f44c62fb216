"""The port with a stand-in behind it, over real connections, and what that stand-in has to show."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from support.overview import FakeOverview
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page
from tocsin.ledger.base import Status
from tocsin.web import AlertStatus, ChannelStatus, FiringRow, NotificationRecord, TransitionRecord, build

Client: TypeAlias = TestClient[web.Request, web.Application]
Start: TypeAlias = Callable[..., Awaitable[Client]]
"""Starts the port, with `admin=True` one that takes orders."""

LATE = AlertStatus(
    name="late", source="materialize", state="up", firing=2, frontier=1_700_000_000_123, last_progress=5.5
)
ROW = FiringRow(
    alert="late",
    fingerprint="f" * 32,
    phase="firing",
    started_at=1_700_000_000_000,
    labels={"customer": "<b>Acme</b>"},
    value=1.5,
    row={"customer": "<b>Acme</b>", "iban": "DE89"},
)
DEAD = NotificationRecord(
    seq=7,
    id="d" * 32,
    alert="late",
    channel="people",
    kind="fired",
    status=Status.DEAD,
    fingerprint="f" * 32,
    started_at=1_700_000_000_000,
    at=1_700_000_000_000,
    attempts=3,
    created_at=1_700_000_001.0,
    not_before=0.0,
    settled_at=1_700_000_002.0,
    reason="rejected",
    detail="422",
    labels={"customer": "Acme"},
    row={"customer": "Acme"},
)
FIRED = TransitionRecord(
    alert="late",
    fingerprint="f" * 32,
    kind="fired",
    started_at=1_700_000_000_000,
    at=1_700_000_000_000,
    labels={"customer": "Acme"},
    value=math.nan,
    row={"customer": "Acme"},
)


def filled() -> FakeOverview:
    """A stand-in with two alerts, a channel, two firing rows and two notifications."""
    overview = FakeOverview()
    overview.alert_list = [LATE, replace(LATE, name="lost", state="error", message="the view is gone", firing=0)]
    overview.channel_list = [ChannelStatus(name="people", type="novu", state="up", oldest_pending=12.0)]
    overview.rows = [ROW, replace(ROW, fingerprint="e" * 32, value=math.inf)]
    overview.records = [DEAD, replace(DEAD, seq=8, id="p" * 32, status=Status.PENDING, settled_at=None)]
    return overview


@asynccontextmanager
async def starting(overview: FakeOverview) -> AsyncIterator[Start]:
    """What starts ports over a stand-in, which are closed in the end."""
    clients: list[Client] = []

    async def begin(*, admin: bool = False) -> Client:
        page = Page(Metrics("1.2.3"))
        gauges = Gauges(GaugeSpec(alert="late", metric="late_orders", labels=(("customer", 0),)))
        gauges.install(gauges.render({"1": ("Acme",)}), 0.0)
        page.add(gauges)
        application = build(overview, page, admin=admin, version="1.2.3", clock=lambda: 1_700_000_003.0)
        client = TestClient(TestServer(application))
        await client.start_server()
        clients.append(client)
        return client

    yield begin
    for client in clients:
        await client.close()


async def error(response: ClientResponse) -> str:
    """What an answer of the JSON interface says is wrong."""
    assert response.content_type == "application/json"
    return str((await response.json())["error"])

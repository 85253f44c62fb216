"""The web server over real connections, in front of a scripted process."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from tocsin.alert import Alert
from tocsin.envelope import View
from tocsin.errors import LedgerError
from tocsin.explain.explanation import Explanation, Life, RouteExplanation, Verdict
from tocsin.explain.facts import ChannelFacts, NotificationFacts
from tocsin.explain.keys import Asked
from tocsin.explain.lives import life
from tocsin.explain.routes import explained
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page
from tocsin.firing import Firing, Phase
from tocsin.ledger.base import Attempt, Episode, Filter, Ledger, Line, Record, Status
from tocsin.model import Column, Columns, Kind, Row, Transition
from tocsin.pipeline.feed import Feed
from tocsin.pipeline.tap import Tap
from tocsin.silences import OpenSilences, Silence
from tocsin.sources.http import Answer, RefusedRequest
from tocsin.web import views
from tocsin.web.access import Rules
from tocsin.web.application import build
from tocsin.web.base import Rows
from tocsin.web.guard import Guard

Client: TypeAlias = TestClient[web.Request, web.Application]
Start: TypeAlias = Callable[..., Awaitable[Client]]
"""Starts a server; with `admin=True` one that allows changes."""

COLUMNS: Columns = (Column(name="customer", oid=25), Column(name="iban", oid=25), Column(name="total", oid=701))
ACME: Row = ("<b>Acme</b>", "DE89", "1.5")
START = 1_700_000_000_000
LATE = {
    "name": "late",
    "source": "materialize",
    "state": "up",
    "message": "",
    "firing": 2,
    "pending": 0,
    "frontier": views.source_time(START + 123),
    "last_progress": views.wall_time(5.5),
    "last_error": "",
    "last_error_at": None,
    "gaps": 0,
    "series": 0,
    "dropped": 0,
    "events": None,
    "leader": None,
}
PEOPLE = {
    "name": "people",
    "type": "novu",
    "state": "up",
    "message": "",
    "pending": 0,
    "oldest_pending": views.wall_time(12.0),
    "delivered": 0,
    "failed": 0,
    "dead": 0,
    "last_delivery": None,
    "failures": [],
}
INSTANCE = {
    "name": "process 7 on host-a",
    "host": "host-a",
    "address": "http://host-a:8627",
    "since": views.wall_time(1_700_000_000.0),
    "leads": ["late"],
    "this": True,
}
FIRED = Transition(
    alert="late", fingerprint="f" * 32, kind=Kind.FIRED, started_at=START, at=START, columns=COLUMNS, row=ACME
)
DEAD = Record(
    seq=7,
    id="d" * 32,
    alert="late",
    channel="people",
    kind="fired",
    status=Status.DEAD,
    fingerprint="f" * 32,
    started_at=START,
    at=START,
    attempts=3,
    created_at=1_700_000_001.0,
    not_before=0.0,
    settled_at=1_700_000_002.0,
    reason="rejected",
    detail="422",
    digest=None,
    columns=COLUMNS,
    row=ACME,
    previous=None,
)
PENDING = replace(DEAD, seq=8, id="p" * 32, status=Status.PENDING, settled_at=None)
ENDED = Episode(
    alert="late",
    fingerprint="f" * 32,
    started_at=START,
    ended_at=START + 2_500,
    firing=False,
    kind="resolved",
    columns=COLUMNS,
    row=ACME,
    deliveries={("people", Status.DELIVERED): 2, ("pager", Status.DEAD): 1},
)


UNSEEN = Explanation(
    alert="late",
    at=1_700_000_003.0,
    fingerprint="f" * 32,
    key=None,
    verdict=Verdict.UNSEEN,
    summary="late 17 does not fire.",
    because=["No row of this key is in the view."],
    source=None,
    started_at=None,
    ended_at=None,
    timer=None,
    columns=(),
    row=None,
    routes=[],
    notifications=[],
    next=[],
    unknown=[],
    nearest=[],
)


def firing(number: int, total: str = "1.5") -> Firing:
    """A firing row of its own fingerprint."""
    row = (*ACME[:2], total)
    name = str(number) * 32
    return Firing(fingerprint=name, phase=Phase.FIRING, started_at=START, marked_at=START, row=row, counts=((1, row),))


class FakeLedger:
    """Answers from lists. With `fault`, everything raises it. `wanted`: the filter of each search."""

    def __init__(self) -> None:
        self.records: list[Record] = [DEAD, PENDING]
        self.failed: dict[str, list[Attempt]] = {}
        self.history: list[Episode] = []
        self.wanted: list[Filter] = []
        self.fault: LedgerError | None = None
        self.silences = OpenSilences()

    def add(self, silence: Silence) -> None:
        """Make a silence."""
        self.silences = OpenSilences([silence, *self.silences.all])

    async def list_silences(self) -> list[Silence]:
        return list(self.silences.all)

    async def held(self) -> dict[str, dict[str, int]]:
        return {one.id: {"people": 1} for one in self.silences.all}

    def now(self) -> float:
        return 1_700_000_003.0

    async def find(self, wanted: Filter) -> list[Record]:
        self._check()
        self.wanted.append(wanted)
        names = ("id", "status", "alert", "channel", "reason")
        asked = {name: value for name in names if (value := getattr(wanted, name)) is not None}
        found = [one for one in self.records if all(getattr(one, name) == value for name, value in asked.items())]
        return [one for one in found if wanted.before is None or one.seq < wanted.before][: wanted.limit]

    async def attempts(self, id_: str) -> list[Attempt]:
        return self.failed.get(id_, [])

    async def line(self, channel: str, ordering_key: str) -> Line:
        return Line()

    async def episodes(self, alert: str, limit: int) -> list[Episode]:
        self._check()
        return [episode for episode in self.history if episode.alert == alert][:limit]

    async def ended(self, since: int, limit: int) -> list[tuple[str, int, int]]:
        self._check()
        ends = [(one.alert, one.started_at, one.ended_at) for one in self.history if one.ended_at is not None]
        return [one for one in ends if one[2] >= since][:limit]

    async def retry(self, ids: Sequence[str]) -> int:
        return self._remove(ids, {Status.DEAD, Status.DROPPED})

    async def drop(self, ids: Sequence[str]) -> int:
        return self._remove(ids, {Status.DEAD, Status.PENDING})

    def _remove(self, ids: Sequence[str], statuses: set[Status]) -> int:
        kept = [record for record in self.records if record.id not in ids or record.status not in statuses]
        removed, self.records = len(self.records) - len(kept), kept
        return removed

    def _check(self) -> None:
        if self.fault:
            raise self.fault


class FakeProcess:
    """Answers from lists. `summary`: the annotation of each alert; `received`: the requests that brought events;
    `refusal`: why the next ones are refused; `reading`: requests whose body is being read; `asked` and `reads`:
    how often it was asked whether it is ready, and for its alerts."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.tap = Tap()
        self.outbox = FakeLedger()
        self.ledger = cast("Ledger", self.outbox)
        self.reasons: list[str] = []
        self.notes: list[str] = []
        self.alert_list: list[dict[str, Any]] = [
            LATE,
            {**LATE, "name": "lost", "state": "error", "message": "the view is gone", "firing": 0},
        ]
        self.channel_list: list[dict[str, Any]] = [PEOPLE]
        self.instance_list: list[dict[str, Any]] = []
        self.fired: dict[str, list[Firing]] = {"late": [firing(1), firing(2, "Infinity")]}
        self.problems: list[str] = []
        self.summary: str | None = None
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.refusal: Exception | None = None
        self.explanation = UNSEEN
        self.keys: list[tuple[str, Asked]] = []
        self.reading = self.reloads = self.rescans = self.asked = self.reads = 0
        self.warnings = lambda: self.notes
        self.channels = lambda: self.channel_list
        self.instances = lambda: self.instance_list
        self.refused = lambda: self.problems
        self.configuration: Callable[[], dict[str, Any]] = lambda: {"digest": None, "since": None, "refused": []}

    def alert(self, name: str) -> Alert:
        found = SimpleNamespace(
            name=name,
            labels={"customer": "customer"},
            static_labels={},
            key=("customer",),
            value="total",
            annotations={} if self.summary is None else {"summary": self.summary, "description": "long"},
        )
        return cast("Alert", found)

    def firing(self, alert: str, limit: int) -> Sequence[dict[str, Any]]:
        return views.firings(self.fired.get(alert, [])[:limit], self.alert(alert), COLUMNS)

    def alerts(self) -> Sequence[dict[str, Any]]:
        self.reads += 1
        return self.alert_list

    def ready(self) -> Sequence[str]:
        self.asked += 1
        return self.reasons

    def rows(self, alert: str) -> Rows | None:
        if alert not in self.fired:
            return None
        return Rows(self.alert(alert), COLUMNS, self.fired[alert])

    def revisions(self) -> Mapping[str, int]:
        """A list of rows that was replaced, or has another length, is news."""
        return {name: hash(tuple(rows)) for name, rows in self.fired.items()}

    def delays(self) -> Mapping[str, tuple[int, float]]:
        return {}

    async def receive(self, alert: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Answer:
        if alert != "posted":
            raise RefusedRequest(404, f"no alert {alert!r} takes events over HTTP")
        if self.refusal is not None:
            raise self.refusal
        self.reading += 1
        try:
            read = b"".join([piece async for piece in body])
        finally:
            self.reading -= 1
        self.received.append((alert, dict(headers), read))
        return Answer(202, {"events": 1})

    async def explain(self, alert: str, asked: Asked) -> Explanation:
        self.keys.append((alert, asked))
        return self.explanation

    async def life(self, record: Record) -> tuple[Life, RouteExplanation]:
        channel = ChannelFacts(name=record.channel, kind="novu", state="up")
        facts = NotificationFacts(
            record=record, attempts=await self.outbox.attempts(record.id), request={"to": ["ann"]}
        )
        now = record.created_at + 1
        return life(facts, channel, now), explained(channel, View(), record.transition, now)

    def rescan(self) -> None:
        self.rescans += 1

    async def reload(self) -> Sequence[str]:
        self.reloads += 1
        return self.problems


@asynccontextmanager
async def starting(process: FakeProcess) -> AsyncIterator[Start]:
    """Yield a function that starts servers in front of a process; they are closed at the end."""
    async with AsyncExitStack() as stack:

        async def begin(*, admin: bool = False, rules: Rules | None = None) -> Client:
            page = Page(Metrics("1.2.3"))
            gauges = Gauges(GaugeSpec(alert="late", metric="late_orders", labels=(("customer", 0),)))
            gauges.install(gauges.render({"1": ("Acme",)}), 0.0)
            page.add(gauges)
            guard = Guard(rules or Rules(admin=admin))
            stack.callback(guard.close)
            application = build(process, page, guard=guard, version="1.2.3", clock=lambda: 1_700_000_003.0)
            return await stack.enter_async_context(TestClient(TestServer(application)))

        yield begin


async def error(response: ClientResponse) -> str:
    """Return the error in an answer of the API."""
    assert response.content_type == "application/json"
    return str((await response.json())["error"])

"""What tests share: a PostgreSQL with a database for each test, a Kafka, a web server."""

from collections.abc import AsyncIterator, Iterator

import pytest

from support import kafka_events
from support.browser import Tab, chromium, new_tab
from support.kafka import Kafka, breakable_kafka, shared_kafka
from support.kafka_events import CLUSTERS, Cluster
from support.postgres import NEWEST, Database, Postgres, shared_postgres
from support.web import FakeProcess, Start, starting


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Postgres:
    return shared_postgres(getattr(request, "param", NEWEST))


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as one:
        yield one


@pytest.fixture
def process() -> FakeProcess:
    """The process behind the web server."""
    return FakeProcess()


@pytest.fixture
async def start(process: FakeProcess) -> AsyncIterator[Start]:
    async with starting(process) as begin:
        yield begin


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
async def tab(browser: str, start: Start) -> AsyncIterator[Tab]:
    """The page, as it is with `admin`."""
    client = await start(admin=True)
    async with new_tab(browser) as opened:
        await opened.watch()
        await opened.open(str(client.make_url("/")))
        yield opened
        assert opened.problems == [], "the page keeps to its Content-Security-Policy, and no script fails"


@pytest.fixture
def broker() -> Kafka:
    return shared_kafka()


@pytest.fixture(params=CLUSTERS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return kafka_events.cluster(request.param)


@pytest.fixture
def own() -> Kafka:
    """A running Kafka that a test in the group `breaks_kafka` may kill or freeze."""
    broker = breakable_kafka()
    if broker.runs:
        broker.thaw()  # after a test that failed
    else:
        broker.start()
    return broker

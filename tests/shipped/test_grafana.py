"""The dashboards: tidy files that read existing metrics, and queries that have an answer during an incident."""

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp.test_utils import TestServer

from support.alertmanager import alertmanager
from support.materialize import MaterializeDouble
from support.novu import fake_novu
from support.prometheus import Prometheus, metric_names, prometheus
from support.receiver import Receiver
from support.stack import alertmanager_file, known_metrics, prometheus_config, tocsin_config
from support.stack_views import VIEWS
from support.tocsin import running
from support.waiting import until, until_some
from support.web import FakeProcess
from tocsin.exposition import AlertStatus, ChannelState, Gauges, GaugeSpec, Metrics, Page, State
from tocsin.web.access import Rules
from tocsin.web.application import build
from tocsin.web.guard import Guard

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana"
BOARDS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (FOLDER / "dashboards").iterdir()}
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
VARIABLES = {"alert": ".*", "channel": ".*", "severity": ".*", "__rate_interval": "10s"}
"""The values of Grafana's variables when all is chosen."""

ENDING = "ALERTS|ALERTS_FOR_STATE|organization_alert|active_alerts"
"""The series that end: the gauges of the demo's views, and the alerts on them."""
AGE = 15
"""Seconds. Three scrapes, and three evaluations."""

each_board = pytest.mark.parametrize("name", BOARDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query of a dashboard with its variables filled in. `instant`: for now only, not over a time."""

    where: str
    expression: str
    instant: bool


def panels(board: Mapping[str, Any], kind: str = "") -> list[dict[str, Any]]:
    """The panels, without rows; of one kind if given."""
    return [panel for panel in board["panels"] if panel["type"] != "row" and kind in ("", panel["type"])]


def queries(name: str) -> Iterator[Query]:
    board = BOARDS[name]
    found = [(panel["title"], target) for panel in panels(board) for target in panel["targets"]]
    found += [(note["name"], note) for note in board["annotations"]["list"] if not note.get("builtIn")]
    for title, target in found:
        expression = re.sub(r"\$(\w+)", lambda variable: VARIABLES[variable[1]], target["expr"])
        yield Query(where=f"{name}: {title}", expression=expression, instant=bool(target.get("instant")))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# The files.


@each_board
def test_dashboard_file_is_tidy(name: str) -> None:
    board, text = BOARDS[name], (FOLDER / "dashboards" / name).read_text(encoding="utf-8")
    assert text == json.dumps(board, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "sort keys, indent by two"
    assert not {"id", "iteration", "version", "__inputs", "__requires"} & board.keys()
    assert board["schemaVersion"] == 41
    assert not board["editable"]
    assert "pluginVersion" not in text
    assert [panel["id"] for panel in board["panels"]] == [*range(1, len(board["panels"]) + 1)]
    assert len({other["uid"] for other in BOARDS.values()}) == len(BOARDS)
    cells = [
        cell
        for at in (panel["gridPos"] for panel in board["panels"])
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
    ]
    assert len(cells) == len({*cells}), "panels overlap"
    assert max(x for x, _ in cells) < 24


@each_board
def test_panels_are_described_and_read_known_metrics(name: str) -> None:
    board = BOARDS[name]
    for panel in panels(board):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        assert all(part["datasource"] == DATASOURCE for part in (panel, *panel["targets"])), panel["title"]
    for query in queries(name):
        assert metric_names(query.expression) <= known_metrics(), query.where
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert {*re.findall(r"\$\{?(\w+)\}?", json.dumps(board))} - {"__rate_interval", "__all"} == variables.keys()
    for variable in variables.values():
        assert variable.get("datasource", DATASOURCE) == DATASOURCE
        if variable["type"] == "query":
            assert variable["query"]["query"].split("(")[1].split(",")[0] in known_metrics()


@each_board
def test_panels_ask_for_the_age_of_samples_that_end(name: str) -> None:
    """A restart of Prometheus shows series that ended meanwhile for five minutes more."""
    for query in queries(name):
        text = query.expression.replace(" != 0 and ", " and ")
        for selector in re.findall(rf"((?<!last_over_time\()\b(?:{ENDING})\b(?:{{[^}}]*}})?)", text):
            assert f"{selector} and time() - timestamp({selector}) < {AGE}" in text, query.where


def test_table_maps_gauges_to_alerts_of_rules() -> None:
    rules = read(ROOT / "prometheus" / "rules" / "demo.yml")["groups"][0]["rules"]
    text = " ".join(query.expression for query in queries("firing-now.json"))
    named = re.findall(r'"alertname", "(\w+)", "", ""\), "alert", "(\w+)"', text)
    assert sorted(named) == sorted((rule["alert"], rule["labels"]["alert"]) for rule in rules)


def test_provisioning_fits_dashboards_and_compose() -> None:
    sources = read(FOLDER / "provisioning" / "datasources" / "datasources.yml")["datasources"]
    assert {source["uid"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "alertmanager": "http://alertmanager:9093",
    }
    (provider,) = read(FOLDER / "provisioning" / "dashboards" / "dashboards.yml")["providers"]
    mounts = read(ROOT / "docker-compose.yml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in mounts


@each_board
def test_table_columns_exist_in_their_queries(name: str) -> None:
    for panel in panels(BOARDS[name], "table"):
        (organize,) = [each["options"] for each in panel["transformations"] if each["id"] == "organize"]
        several = len(panel["targets"]) > 1
        values = {f"Value #{target['refId']}" for target in panel["targets"]} if several else {"Value"}
        labels = {*re.findall(r"\w+", re.findall(r"by \(([^)]*)\)", panel["targets"][0]["expr"])[0])}
        assert organize["renameByName"].keys() | organize["excludeByName"].keys() == labels | values | {"Time"}
        shown = {*organize["renameByName"].values()}
        matchers = [override["matcher"] for override in panel["fieldConfig"]["overrides"]]
        assert {matcher["options"] for matcher in matchers if matcher["id"] == "byName"} <= shown
        assert {sort["displayName"] for sort in panel["options"]["sortBy"]} <= shown


@each_board
def test_stats_are_never_green_while_down(name: str) -> None:
    """A green zero would say that all is well."""
    for panel in panels(BOARDS[name], "stat"):
        (target,) = panel["targets"]
        mappings = panel["fieldConfig"]["defaults"]["mappings"]
        if not any(metric.startswith("tocsin_") for metric in metric_names(target["expr"])):
            continue
        if target["expr"].endswith("or vector(0)"):
            assert mappings[0]["options"]["0"]["color"] == "red", panel["title"]
        else:
            nothing = [each["options"] for each in mappings if each["type"] == "special"]
            assert [(each["match"], each["result"]["text"]) for each in nothing] == [("null+nan", "unknown")]


def test_runbooks_name_existing_panels() -> None:
    text = " ".join((ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8").split())
    named = {*re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text)}
    titles = {panel["title"] for board in BOARDS.values() for panel in board["panels"]}
    assert named - titles - {board["title"] for board in BOARDS.values()} == {"Status, Targets"}


# Three processes with one ledger.


def _process(number: int) -> Page:
    """What one of three processes shows; the second one leads the alert."""
    metrics = Metrics("1.2.3")
    page = Page(metrics)
    gauges = Gauges(GaugeSpec(alert="spikes", metric="organization_alert", labels=(("organization", 0),), value=1))
    gauges.install(gauges.render({"A": ("A", "10")}, replace=True), time.time())
    page.add(gauges)
    alert, channel = metrics.alert("spikes"), metrics.channel("people")
    alert.updates.inc(4)
    alert.status = lambda: AlertStatus(
        name="spikes",
        source="mz",
        state=State.UP if number == 1 else State.ERROR,
        leads=number == 1,
        firing=1,
        frontier=1_000,
        last_progress=1.0,
        series=1,
        dropped=0,
    )
    channel.state = lambda: ChannelState(state="up", pending=3, oldest_pending=1.0, dead=2)
    metrics.ledger_up.set(1)
    return page


async def test_panels_show_three_processes_as_one(tmp_path: Path) -> None:
    """No legend is there twice, and what each process shows of the ledger counts once."""
    async with contextlib.AsyncExitStack() as stack:
        targets = []
        for number in range(3):
            application = build(FakeProcess(), _process(number), guard=Guard(Rules()))
            server = await stack.enter_async_context(TestServer(application))
            targets.append(f"127.0.0.1:{server.port}")
        every = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
        jobs = [{"job_name": "tocsin", "static_configs": [{"targets": targets}]}]
        watching = await stack.enter_async_context(prometheus(tmp_path, {"global": every, "scrape_configs": jobs}))

        async def shown(title: str, name: str = "tocsin.json") -> int:
            expressions = [each.expression for each in queries(name) if each.where == f"{name}: {title}"]
            [found] = await watching.query(expressions[0])
            return int(found["value"][1])

        async def scraped() -> bool:
            found = await watching.query("count(rate(tocsin_alert_updates_total[10s]))")
            return [one["value"][1] for one in found] == ["3"]

        await until_some(scraped)
        for name, board in BOARDS.items():
            for panel in panels(board):
                if panel["type"] != "table":
                    await _legends_are_unique(watching, name, panel)
        assert [await shown(title) for title in ("Processes", "Sources down", "Channels down")] == [3, 0, 0]
        assert await shown("Dead letters") == 2
        assert await shown("Pending notifications") == await shown("Pending notifications", "firing-now.json") == 3
        assert await shown("Firing rows", "firing-now.json") == 1
        [leads] = [each.expression for each in queries("tocsin.json") if each.where.endswith(": Leads")]
        found = {each["metric"]["instance"]: each["metric"].get("alert") for each in await watching.query(leads)}
        assert found == dict(zip(targets, (None, "spikes", None), strict=True))


async def _legends_are_unique(watching: Prometheus, where: str, panel: Mapping[str, Any]) -> None:
    legends = []
    for target in panel["targets"]:
        expression = re.sub(r"\$(\w+)", lambda variable: VARIABLES[variable[1]], target["expr"])
        parts = re.split(r"{{(\w+)}}", target["legendFormat"])
        for series in await watching.query(expression):
            values = [series["metric"].get(label, "") for label in parts[1::2]]
            legends.append((*parts[::2], *values))
    assert len(legends) == len({*legends}), f"{where}: {panel['title']}: {legends}"


# An incident, and every query.


async def _change_rows(double: MaterializeDouble) -> None:
    """Two organizations fire all the time, one comes and goes; bids and malformed events arrive."""
    spikes, bids, rejected = (double.relation(view) for view in VIEWS)
    spikes.insert(
        ("deployment_spike", "A", "critical", "team-a", 10, 1), ("deployment_spike", "B", "warning", "team-b", 7, 2)
    )
    for count in itertools.count(1):
        bids.insert(("expensive pizza", count, "Best Pizza in Town", f"{90 + count}.5", "eve", "warning"))
        rejected.insert(("customer_events", 0, count, "not a flat JSON object", "{", "2026-01-01 00:00:00"))
        passing = ("deployment_spike", "C", "warning", "team-c", count, 1)
        spikes.insert(passing)
        await asyncio.sleep(0.3)
        spikes.delete(passing)
        await asyncio.sleep(0.3)


async def test_every_query_answers_during_an_incident(tmp_path: Path) -> None:
    """The shipped configuration of Tocsin, Prometheus and Alertmanager, before a double of Materialize, with a fake
    Novu that knows one workflow of two, and a receiver for the rest."""
    started = time.time()
    quick = {"timeout": "2s", "backoff_initial": "20ms", "backoff_max": "100ms"}
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        double = await enter(MaterializeDouble(progress_interval=0.2, clusters=("quickstart", "alerting")))
        for view, columns in VIEWS.items():
            double.create(view, columns)
        receiver, novu = await enter(Receiver()), await enter(fake_novu())
        novu.add_workflow("deployment-spike")
        novu.add_workflow("deployment-calm")
        server = await enter(alertmanager(tmp_path, alertmanager_file(tmp_path, receiver.url)))
        config = tocsin_config(tmp_path, receiver.url, {"host": "127.0.0.1", "port": double.port})
        del config["channels"]["people"]["api_key_file"]
        config["channels"]["people"] |= {"url": novu.url, "api_key": novu.api_key, **quick}
        config["channels"]["audit"] |= quick
        tocsin = await enter(running(tmp_path, config))
        scraping = prometheus_config(config["web"]["listen"], server.port)
        scraping["global"] = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
        for job in scraping["scrape_configs"]:
            job.pop("scrape_interval", None)
            job.pop("scrape_timeout", None)
        watching = await enter(prometheus(tmp_path, scraping))
        stack.callback(asyncio.create_task(_change_rows(double)).cancel)
        left = [query for name in BOARDS for query in queries(name)]
        assert len(left) > 40

        async def without_answer(query: Query) -> bool:
            if query.instant:
                values = [each["value"][1] for each in await watching.query(query.expression)]
            else:
                series = await watching.range(query.expression, start=started, end=time.time())
                values = [value for each in series for _, value in each["values"]]
            return not {*values} - {"NaN", "+Inf", "-Inf"}

        async def answered() -> bool:
            # A failure and a dead letter: Novu does not know the workflow of the auctions.
            assert await tocsin.metric("tocsin_channel_dead_letters", channel="people")
            left[:] = [query for query in left if await without_answer(query)]
            assert not left, "no answer to " + "".join(f"\n{query.where}: {query.expression}" for query in left)
            return True

        def organizations() -> set[str]:
            bodies = [each.json for each in receiver.requests if each.path == "/webhook/alertmanager"]
            return {alert["labels"].get("organization", "") for body in bodies for alert in body["alerts"]}

        await until_some(answered, within=30)
        variables = [variable for board in BOARDS.values() for variable in board["templating"]["list"]]
        for text in (variable["query"]["query"] for variable in variables if variable["type"] == "query"):
            metric, label = re.findall(r"^label_values\((\w+), (\w+)\)$", text)[0]
            assert await watching.get(f"label/{label}/values", **{"match[]": metric}), text
        await until(lambda: {"A", "B"} <= organizations(), "alerts of both organizations")
        await until(novu.messages, "a message through Novu")

"""The dashboards: tidy files that read what exists, and whose every query has an answer while something goes on."""

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.alertmanager import ALERTMANAGER, Alertmanager, alertmanager
from support.materialize import MaterializeDouble
from support.novu import FakeNovu, fake_novu
from support.prometheus import PROMETHEUS, Prometheus, free_port, metric_names, prometheus
from support.receiver import Receiver
from support.stack import COMPOSED, known_metrics
from support.stack_views import VIEWS
from support.tocsin import Tocsin, quick_source, running
from support.waiting import until, until_some
from tocsin.config.document import parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana"
BOARDS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (FOLDER / "dashboards").iterdir()}
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
EVERYTHING = {"alert": ".*", "channel": ".*", "severity": ".*", "__rate_interval": "10s"}
"""What Grafana puts in the place of variables when all is chosen, and for scrapes of every second."""
LEGITIMATELY_EMPTY: Mapping[str, str] = {}
"""Panels that may have nothing to show during an incident, with the reason. There are none."""

each_board = pytest.mark.parametrize("name", BOARDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query of a dashboard, with its variables filled in. `instant`: asked for now only, not over a time."""

    where: str
    expression: str
    instant: bool


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(name: str) -> Iterator[Query]:
    board = BOARDS[name]
    for panel in panels(board):
        for target in panel["targets"]:
            where = f"{name}: {panel['title']} {target['refId']}"
            yield Query(where=where, expression=filled(target["expr"]), instant=bool(target.get("instant")))
    for note in board["annotations"]["list"]:
        if not note.get("builtIn"):
            yield Query(where=f"{name}: note {note['name']}", expression=filled(note["expr"]), instant=False)


def filled(expression: str) -> str:
    return re.sub(r"\$(\w+)", lambda found: EVERYTHING[found[1]], expression)


# The files.


@each_board
def test_a_dashboard_is_kept_tidy(name: str) -> None:
    board = BOARDS[name]
    text = (FOLDER / "dashboards" / name).read_text(encoding="utf-8")
    assert text == json.dumps(board, indent=2, sort_keys=True, ensure_ascii=False) + "\n", (
        "sort the keys, indent by two"
    )
    assert not {"id", "iteration", "version", "__inputs", "__requires"} & board.keys()
    assert board["schemaVersion"] == 41
    assert not board["editable"]
    assert "pluginVersion" not in text
    ids = [panel["id"] for panel in board["panels"]]
    assert ids == [*range(1, len(ids) + 1)]


def test_dashboards_have_names_of_their_own() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    assert {board["title"] for board in BOARDS.values()} == {"Firing now", "Tocsin"}


@each_board
def test_panels_stand_side_by_side(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert cell[0] < 24, panel["title"]
            assert cell not in taken, f"{panel['title']} over {taken[cell]}"
            taken[cell] = panel["title"]


@each_board
def test_every_panel_says_what_it_shows_and_reads_the_provisioned_source(name: str) -> None:
    for panel in panels(BOARDS[name]):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == DATASOURCE, panel["title"]
    for variable in BOARDS[name]["templating"]["list"]:
        assert variable.get("datasource", DATASOURCE) == DATASOURCE


@each_board
def test_every_variable_is_declared_and_used(name: str) -> None:
    declared = {variable["name"] for variable in BOARDS[name]["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(BOARDS[name]))) - {"__rate_interval", "__all"}
    assert used == declared


@each_board
def test_a_dashboard_reads_metrics_that_exist(name: str) -> None:
    for query in queries(name):
        assert metric_names(query.expression) <= known_metrics(), query.where
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["query"]["query"].split("(")[1].split(",")[0] in known_metrics()


def test_a_dashboard_names_alerts_that_there_are() -> None:
    """The table gives the values of gauges the names that their alerts have in the rules."""
    rules = _yaml(ROOT / "prometheus" / "rules" / "demo.yml")["groups"][0]["rules"]
    text = " ".join(query.expression for query in queries("firing-now.json"))
    named = re.findall(r'"alertname", "(\w+)", "", ""\), "alert", "(\w+)"', text)
    assert sorted(named) == sorted((rule["alert"], rule["labels"]["alert"]) for rule in rules)


def test_the_provisioning_fits_the_dashboards_and_compose() -> None:
    sources = _yaml(FOLDER / "provisioning" / "datasources" / "datasources.yml")["datasources"]
    assert [(source["uid"], source["url"]) for source in sources] == [
        ("prometheus", "http://prometheus:9090"),
        ("alertmanager", "http://alertmanager:9093"),
    ]
    (provider,) = _yaml(FOLDER / "provisioning" / "dashboards" / "dashboards.yml")["providers"]
    mounts = _yaml(ROOT / "docker-compose.yml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in mounts


def test_a_table_shows_columns_that_its_queries_have() -> None:
    for board in BOARDS.values():
        for panel in (panel for panel in panels(board) if panel["type"] == "table"):
            (organize,) = [each["options"] for each in panel["transformations"] if each["id"] == "organize"]
            values = (
                {f"Value #{target['refId']}" for target in panel["targets"]} if len(panel["targets"]) > 1 else {"Value"}
            )
            labels = set(re.findall(r"\w+", re.findall(r"by \(([^)]*)\)", panel["targets"][0]["expr"])[0]))
            assert organize["renameByName"].keys() | organize["excludeByName"].keys() == labels | values | {"Time"}
            shown = set(organize["renameByName"].values())
            matchers = [override["matcher"] for override in panel["fieldConfig"]["overrides"]]
            assert {matcher["options"] for matcher in matchers if matcher["id"] == "byName"} <= shown
            assert {sort["displayName"] for sort in panel["options"]["sortBy"]} <= shown


@each_board
def test_what_only_tocsin_can_tell_is_unknown_or_red_while_it_is_away(name: str) -> None:
    """A zero on green would say that all is well."""
    for panel in (panel for panel in panels(BOARDS[name]) if panel["type"] == "stat"):
        (target,) = panel["targets"]
        if not any(metric.startswith("tocsin_") for metric in metric_names(target["expr"])):
            continue
        mappings = panel["fieldConfig"]["defaults"]["mappings"]
        if target["expr"].endswith("or vector(0)"):
            assert mappings[0]["options"]["0"]["color"] == "red", panel["title"]
        else:
            nothing = [each["options"] for each in mappings if each["type"] == "special"]
            assert [(each["match"], each["result"]["text"]) for each in nothing] == [("null+nan", "unknown")]


@each_board
def test_a_timeline_has_the_colours_of_its_states(name: str) -> None:
    """With colours from thresholds Grafana merges by threshold, not by state, and "transparent" it paints black."""
    for panel in (panel for panel in panels(BOARDS[name]) if panel["type"] == "state-timeline"):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["color"]["mode"] == "fixed", panel["title"]
        states = [state for mapping in defaults["mappings"] for state in mapping["options"].values()]
        assert "transparent" not in {state["color"] for state in states}, panel["title"]


def test_the_runbooks_name_panels_that_there_are() -> None:
    text = " ".join((ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8").split())
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text))
    titles = {panel["title"] for board in BOARDS.values() for panel in board["panels"]}
    assert named - titles - {board["title"] for board in BOARDS.values()} == {"Status, Targets", "Reload"}


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# An incident, and every query.


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """The shipped configuration of Tocsin, Prometheus and Alertmanager between a double of Materialize, an inbox that
    knows one workflow of two, and a receiver for the rest. Something happens all the time."""

    tocsin: Tocsin
    prometheus: Prometheus
    receiver: Receiver
    novu: FakeNovu
    started: float


@asynccontextmanager
async def incident(folder: Path) -> AsyncIterator[Incident]:
    started = time.time()
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        double = await enter(MaterializeDouble(progress_interval=0.2, clusters=("quickstart", "alerting")))
        for view, columns in VIEWS.items():
            double.create(view, columns)
        receiver, novu = await enter(Receiver()), await enter(fake_novu())
        novu.add_workflow("deployment-spike")
        novu.add_workflow("deployment-calm")
        tocsin = await enter(running(folder, _tocsin_config(folder, double, receiver, novu)))
        server = await enter(alertmanager(folder, _alertmanager_file(folder, receiver)))
        watching = await enter(prometheus(folder, _prometheus_config(tocsin, server)))
        happening = asyncio.create_task(_happen(double))
        try:
            yield Incident(tocsin=tocsin, prometheus=watching, receiver=receiver, novu=novu, started=started)
        finally:
            happening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await happening


async def _happen(double: MaterializeDouble) -> None:
    """Two organizations fire for good, one comes and goes; bids and malformed events come in."""
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


def _tocsin_config(folder: Path, double: MaterializeDouble, receiver: Receiver, novu: FakeNovu) -> dict[str, Any]:
    """The stack's own, with other addresses and less patience."""
    config: Any = parse(COMPOSED.read_text(encoding="utf-8"), str(COMPOSED), {}).data
    cluster = config["sources"]["materialize"]["cluster"]
    quick = {"timeout": "2s", "backoff_initial": "20ms", "backoff_max": "100ms"}
    people = {name: value for name, value in config["channels"]["people"].items() if name != "api_key_file"}
    config |= {
        "ledger": {"path": str(folder / "ledger.db")},
        "web": {"listen": "127.0.0.1:0"},
        "log": {"level": "info"},
        "sources": {"materialize": quick_source(double.dsn, cluster=cluster)},
        "channels": {
            "people": {**people, "url": novu.url, "api_key": novu.api_key, **quick},
            "audit": {**config["channels"]["audit"], "url": f"{receiver.url}/audit", **quick},
        },
    }
    return dict(config)


def _prometheus_config(tocsin: Tocsin, server: Alertmanager) -> dict[str, Any]:
    """The stack's own, every second, and with the addresses of this test."""
    config: dict[str, Any] = _yaml(ROOT / "prometheus" / "prometheus.yml")
    config["global"] = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
    config["rule_files"] = [str(ROOT / "prometheus" / "rules" / "*.yml")]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]}]
    there = {"tocsin": tocsin.url.removeprefix("http://"), "alertmanager": f"127.0.0.1:{server.port}"}
    nobody = f"127.0.0.1:{free_port()}"
    for job in config["scrape_configs"]:
        job.pop("scrape_interval", None)
        job.pop("scrape_timeout", None)
        job["static_configs"] = [{"targets": [there.get(job["job_name"], nobody)]}]
    return config


def _alertmanager_file(folder: Path, receiver: Receiver) -> Path:
    text = (ROOT / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    file = folder / "alertmanager.yml"
    file.write_text(text.replace("http://inbox:8925", receiver.url), encoding="utf-8")
    return file


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not on the PATH")
@pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")
async def test_during_an_incident_every_query_of_every_panel_has_an_answer(tmp_path: Path) -> None:
    async with incident(tmp_path) as now:
        # A failure and a dead letter: the inbox does not know the workflow of the auctions.
        await until_some(
            lambda: _positive(now.tocsin, "tocsin_channel_dead_letters", channel="people"), "a dead letter"
        )
        left = [query for name in BOARDS for query in queries(name) if query.where not in LEGITIMATELY_EMPTY]
        assert len(left) > 40

        async def answered() -> bool:
            left[:] = [query for query in left if not await _answered(now, query)]
            assert not left, "no answer to " + "".join(f"\n{query.where}: {query.expression}" for query in left)
            return True

        await until_some(answered, within=30)
        await _check_variables(now)
        await _check_that_both_paths_told(now)


async def _answered(now: Incident, query: Query) -> bool:
    """Whether a query gives a number. One that Prometheus refuses fails at once."""
    if query.instant:
        series = await now.prometheus.query(query.expression)
        values = [each["value"][1] for each in series]
    else:
        series = await now.prometheus.range(query.expression, start=now.started, end=time.time())
        values = [value for each in series for _, value in each["values"]]
    return any(value not in {"NaN", "+Inf", "-Inf"} for value in values)


async def _positive(tocsin: Tocsin, metric: str, **labels: str) -> bool:
    return bool(await tocsin.metric(metric, **labels))


async def _check_variables(now: Incident) -> None:
    """What a person may choose from."""
    for board in BOARDS.values():
        for variable in (each for each in board["templating"]["list"] if each["type"] == "query"):
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert found is not None, variable["name"]
            choices = await now.prometheus.get(f"label/{found[2]}/values", **{"match[]": found[1]})
            assert choices, variable["name"]


async def _check_that_both_paths_told(now: Incident) -> None:
    """The row became a message at the person's, and an alert at the inbox's webhook for each organization."""

    def organizations() -> set[str]:
        bodies = [each.json for each in now.receiver.requests if each.path == "/webhook/alertmanager"]
        return {alert["labels"].get("organization", "") for body in bodies for alert in body["alerts"]}

    await until(lambda: {"A", "B"} <= organizations(), "alerts of both organizations")
    await until(now.novu.messages, "a message at a person's")

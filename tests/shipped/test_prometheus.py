"""Prometheus's configuration and rules: valid, tested one by one, fast enough, and explained in the runbooks."""

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.monitoring_programs import Generation, each_generation, program
from support.prometheus import metric_names, run
from support.stack import COMPOSED, known_metrics, labels_of_gauges, seconds

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks.md"


@cache
def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


RULE_FILES = sorted((FOLDER / "rules").iterdir())
RULES: Mapping[str, Any] = {
    rule["alert"]: rule for file in RULE_FILES for group in read(file)["groups"] for rule in group["rules"]
}
DEMO = {name: rule for name, rule in RULES.items() if rule["labels"]["service"] == "demo"}
TESTS = [test for file in sorted((FOLDER / "tests").iterdir()) for test in read(file)["tests"]]

each_rule = pytest.mark.parametrize("name", RULES)


@each_generation
async def test_configuration_and_rules_are_valid(generation: Generation) -> None:
    status, output = await run(program("promtool", generation), "check", "config", FOLDER / "prometheus.yml")
    assert status == 0, output
    assert f"{len(RULE_FILES)} rule files found" in output, output


@each_generation
async def test_rules_fire_and_resolve(generation: Generation) -> None:
    status, output = await run(program("promtool", generation), "test", "rules", *(FOLDER / "tests").iterdir())
    assert status == 0, output


@each_rule
def test_rule_tests_cover_silence_firing_and_end(name: str) -> None:
    counts = [
        [len(check["exp_alerts"]) for check in test["alert_rule_test"] if check["alertname"] == name] for test in TESTS
    ]
    assert any(0 in each for each in counts), "no test expects silence"
    assert any(later < sooner for each in counts for sooner, later in pairwise(each)), "no test expects its end"


@each_rule
def test_rule_has_severity_service_and_texts(name: str) -> None:
    labels, annotations = RULES[name]["labels"], RULES[name]["annotations"]
    if name in DEMO:  # from the row, with a default for a row without one
        assert re.search(r"\$labels\.severity.*\{\{ else \}\}warning", labels["severity"])
    else:
        assert labels["severity"] in {"critical", "warning", "info"}
        assert labels["owner"] == "operators"
        assert labels["service"] == ("tocsin" if name.startswith("Tocsin") else "stack")
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert not annotations["summary"].endswith(".")
    assert annotations["description"].endswith((".", "{{ end }}"))


@each_rule
def test_rule_reads_known_metrics_and_labels(name: str) -> None:
    metrics = metric_names(RULES[name]["expr"])
    assert metrics
    assert metrics <= known_metrics()
    for metric in metrics & labels_of_gauges().keys():
        assert set(re.findall(r"\$labels\.(\w+)", str(RULES[name]))) <= labels_of_gauges()[metric], metric


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule["labels"]["service"] != "stack"])
def test_rule_is_of_all_processes_or_names_the_one(name: str) -> None:
    """Several processes with one ledger serve the same series, so a rule on each of these would fire several times."""
    of_one = name in {"TocsinInstanceDown", "TocsinRestarts", "TocsinReloadFailed"}
    assert ("$labels.instance" in str(RULES[name]["annotations"])) == of_one
    if not of_one:
        outside = re.sub(r"\(instance, pod\)", "", RULES[name]["expr"])
        assert re.search(r"without \((\w+, )*instance, pod\)", RULES[name]["expr"])
        assert "instance" not in re.sub(r"(\w+, )*instance, pod", "", outside).replace("tocsin_instance_leads", "")


def test_every_rule_has_its_runbook() -> None:
    parts = re.split(r"^## (.+)$", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert sections.keys() == RULES.keys()
    for name, text in sections.items():
        assert RULES[name]["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert re.search(r"\*\*Meaning\.\*\*.*\*\*Check.*\bfix\b", text, re.DOTALL | re.IGNORECASE), name
        assert {*re.findall(r"\]\(#([^)]*)\)", text)} <= {each.lower() for each in sections}, name


def test_demo_rules_ask_for_samples_of_the_last_three_scrapes() -> None:
    age = 3 * seconds(read(FOLDER / "prometheus.yml")["global"]["scrape_interval"])
    for rule in DEMO.values():
        [gauge] = metric_names(rule["expr"])
        assert f"time() - timestamp({gauge}) < {age:g}" in rule["expr"]


def test_demo_rules_name_alerts_of_the_stack() -> None:
    assert {rule["labels"]["alert"] for rule in DEMO.values()} <= read(COMPOSED)["alerts"].keys()


def test_a_row_reaches_alertmanager_within_twelve_seconds() -> None:
    """Worst case: a scrape and an evaluation just missed, `for`, and Alertmanager's group_wait."""
    settings = read(FOLDER / "prometheus.yml")["global"]
    scrape, evaluation = (seconds(settings[f"{name}_interval"]) for name in ("scrape", "evaluation"))
    wait = seconds(read(ROOT / "alertmanager" / "alertmanager.yml")["route"]["group_wait"])
    for rule in DEMO.values():
        pending = seconds(rule["for"])
        assert scrape + max(evaluation * (2 if pending else 1), pending) + wait <= 12


def test_every_service_with_metrics_is_scraped() -> None:
    config = read(FOLDER / "prometheus.yml")
    assert {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]} == {
        "tocsin": ["exporter:8627"],
        "producer": ["producer:9108"],
        "materialized": ["materialized:6878"],
        "redpanda": ["redpanda:9644"],
        "alertmanager": ["alertmanager:9093"],
        "prometheus": ["localhost:9090"],
    }
    for job in [config["global"], *config["scrape_configs"]]:
        if "scrape_interval" in job:
            assert seconds(job["scrape_timeout"]) < seconds(job["scrape_interval"])

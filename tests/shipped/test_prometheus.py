"""Prometheus's configuration and rules: valid, tested one by one, within the time promised, and explained."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.prometheus import PROMTOOL, metric_names, run
from support.stack import COMPOSED, known_metrics, labels_of_gauges, seconds

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
SEVERITIES = {"critical", "warning", "info"}
RULE_FILES = ("demo.yml", "tocsin.yml")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on the PATH")


@cache
def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in read(FOLDER / "rules" / file)["groups"] for rule in group["rules"]]


RULES = {rule["alert"]: rule for file in RULE_FILES for rule in rules(file)}


def expectations() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What the rule tests expect: alert, and one look at it."""
    for file in RULE_FILES:
        for test in read(FOLDER / "tests" / file)["tests"]:
            for look in test["alert_rule_test"]:
                yield look["alertname"], look


@needs_promtool
async def test_the_configuration_is_valid() -> None:
    status, said = await run(PROMTOOL or "", "check", "config", FOLDER / "prometheus.yml")
    assert status == 0, said
    assert "2 rule files found" in said, said


@needs_promtool
async def test_the_rules_fire_and_end_as_they_should() -> None:
    status, said = await run(PROMTOOL or "", "test", "rules", *sorted((FOLDER / "tests").glob("*.yml")))
    assert status == 0, said


def test_there_are_no_other_files_of_rules_and_tests() -> None:
    for folder in ("rules", "tests"):
        assert sorted(path.name for path in (FOLDER / folder).iterdir()) == sorted(RULE_FILES)


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_is_tested_from_before_it_fires_until_after_its_end(alert: str) -> None:
    looks = [bool(look["exp_alerts"]) for name, look in expectations() if name == alert]
    assert True in looks, "no rule test expects it to fire"
    assert False in looks, "no rule test expects it to be silent"
    assert _ends(alert), "no rule test looks at it after its end"


def _ends(alert: str) -> bool:
    """Whether a test sees an alert fire, and later fewer of it."""
    for file in RULE_FILES:
        for test in read(FOLDER / "tests" / file)["tests"]:
            counts = [len(look["exp_alerts"]) for look in test["alert_rule_test"] if look["alertname"] == alert]
            if any(later < sooner for sooner, later in pairwise(counts)):
                return True
    return False


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_says_how_bad_it_is_and_whose(alert: str) -> None:
    rule = RULES[alert]
    severity = rule["labels"]["severity"]
    if "{{" in severity:  # it comes with the row; one that has none is something, too
        assert re.search(r"\$labels\.severity.*\{\{ else \}\}warning", severity)
        metrics = metric_names(rule["expr"])
        assert all("severity" in labels_of_gauges()[metric] for metric in metrics)
    else:
        assert severity in SEVERITIES
        assert rule["labels"]["owner"] == "operators"
    assert rule["labels"]["service"] in {"demo", "stack", "tocsin"}
    assert (rule["labels"]["service"] == "tocsin") == alert.startswith("Tocsin")


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_speaks_in_sentences(alert: str) -> None:
    annotations = RULES[alert]["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert not annotations["summary"].endswith(".")
    assert annotations["description"].endswith((".", "{{ end }}"))


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_leads_to_its_runbook(alert: str) -> None:
    page, _, anchor = RULES[alert]["annotations"]["runbook_url"].partition("#")
    assert ROOT / page == RUNBOOKS
    assert anchor == alert.lower()
    text = sections()[alert]
    assert re.search(r"\*\*Meaning\.\*\*.*\*\*Check.*\bfix\b", text, re.DOTALL | re.IGNORECASE)


def test_every_runbook_is_of_a_rule() -> None:
    assert sections().keys() == RULES.keys()


def test_links_between_runbooks_resolve() -> None:
    text = RUNBOOKS.read_text(encoding="utf-8")
    anchors = {name.lower() for name in sections()}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


@cache
def sections() -> Mapping[str, str]:
    """The runbooks: heading to text."""
    parts = re.split(r"^## (.+)$", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_reads_metrics_that_exist(alert: str) -> None:
    read_by_rule = metric_names(RULES[alert]["expr"])
    assert read_by_rule
    assert read_by_rule <= known_metrics()


def test_the_rules_on_gauges_use_labels_that_the_gauges_have() -> None:
    gauges = labels_of_gauges()
    for rule in rules("demo.yml"):
        metrics = metric_names(rule["expr"])
        if metrics & gauges.keys():
            (metric,) = metrics
            used = set(re.findall(r"\$labels\.(\w+)", str(rule)))
            assert used <= gauges[metric], metric


def test_the_rules_of_the_demo_name_alerts_that_tocsin_is_given() -> None:
    named = {rule["labels"]["alert"] for rule in rules("demo.yml") if rule["labels"]["service"] == "demo"}
    assert named <= read(COMPOSED)["alerts"].keys()


def test_an_event_is_told_within_fifteen_seconds() -> None:
    """The worst case: a scrape just missed, an evaluation just missed, `for`, and Alertmanager's wait. What is left is
    for the database and the messages on the way."""
    settings = read(FOLDER / "prometheus.yml")["global"]
    waits = seconds(read(ROOT / "alertmanager" / "alertmanager.yml")["route"]["group_wait"])
    for rule in rules("demo.yml"):
        if rule["labels"]["service"] == "demo":
            for_ = seconds(rule["for"])
            # `for` that is not zero is looked at again only at the next evaluation.
            looks = seconds(settings["evaluation_interval"]) * (2 if for_ else 1)
            assert seconds(settings["scrape_interval"]) + max(looks, for_) + waits <= 12


def test_every_service_with_metrics_is_read() -> None:
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"]
        for job in read(FOLDER / "prometheus.yml")["scrape_configs"]
    }
    assert jobs == {
        "tocsin": ["exporter:8627"],
        "producer": ["producer:9108"],
        "materialized": ["materialized:6878"],
        "redpanda": ["redpanda:9644"],
        "alertmanager": ["alertmanager:9093"],
        "prometheus": ["localhost:9090"],
    }


def test_a_scrape_ends_before_the_next_begins() -> None:
    config = read(FOLDER / "prometheus.yml")
    for job in [config["global"], *config["scrape_configs"]]:
        if "scrape_interval" in job:
            assert seconds(job["scrape_timeout"]) < seconds(job["scrape_interval"])


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('up{job="a{b"} == 0 or absent(up{job="x"})', {"up"}),
        ("sum by (le, a) (rate(b_total[5m])) > on (c) group_left (d) e offset 5m", {"b_total", "e"}),
        ("a:b:c * 1e3 unless bool_like{x!~'y'}", {"a:b:c", "bool_like"}),
    ],
)
def test_the_metrics_of_an_expression_are_found(expression: str, names: set[str]) -> None:
    assert metric_names(expression) == names

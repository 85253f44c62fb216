"""The Helm chart: what it renders is valid, hangs together and keeps its promises; wrong values are refused.

`make check-deploy` also sends it to a Kubernetes API server.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml

from support.helm import CHART, CI, RefusedError, Rendered, invalid, rendered, rendered_values, run_helm
from support.kubernetes_programs import helm
from support.monitoring_programs import program
from support.scripts import ROOT
from tocsin import cli

# Once, for all workers of the run, before the limit of a test counts.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("helm")]

SQLITE, POSTGRESQL = CHART / "ci/sqlite-values.yaml", CHART / "ci/postgresql-values.yaml"
REFUSALS = yaml.safe_load(Path(__file__).with_name("helm_refusals.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "exporter/Dockerfile").read_text(encoding="utf-8")

each_file = pytest.mark.parametrize("values", CI, ids=lambda file: file.name)


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module", params=CI, ids=lambda file: file.name)
def chart(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


# What is rendered.


@each_file
def test_lint_accepts_values(values: Path) -> None:
    run_helm("lint", "--strict", CHART, "--values", values)


def test_schemas_accept_every_object(chart: Rendered) -> None:
    assert invalid(chart) == []


def test_schemas_refuse_a_misspelt_field() -> None:
    """Shows that the schemas are strict."""
    text = rendered(SQLITE).text
    for right, wrong in (("replicas:", "replica:"), ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: yess")):
        assert right in text
        broken = text.replace(right, wrong)
        assert invalid(Rendered(broken, list(yaml.safe_load_all(broken)))) != []


def test_objects_are_in_the_namespace_and_unique(chart: Rendered) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in chart.objects]
    assert len(names) == len({*names})
    assert {each["metadata"].get("namespace", "alerting") for each in chart.objects} == {"alerting"}


def test_large_numbers_have_no_exponent(chart: Rendered) -> None:
    assert re.findall(r"\de\+\d", chart.text) == []


def test_selectors_match_the_pods(chart: Rendered) -> None:
    labels = chart.pod["metadata"]["labels"].items()
    found = [selector for each in chart.objects for selector in selectors(each)]
    assert len(found) >= 3
    for selector in found:
        assert selector.items() <= labels
        assert "app.kubernetes.io/instance" in selector, "another release in the namespace must not match"


def test_ports_are_named_in_the_pod(chart: Rendered) -> None:
    [port] = chart.container["ports"]
    service = chart.one("Service")
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert {probe["httpGet"]["port"] for probe in probes(chart)} == {port["name"]}
    for monitor in (each for each in chart.objects if each["kind"].endswith("Monitor")):
        [endpoint] = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in (port["name"], service["spec"]["ports"][0]["name"])


def test_names_fit_for_the_longest_release() -> None:
    """53 characters are Helm's limit; a pod of a StatefulSet carries the name and a hash in a label of at most 63."""
    chart = rendered(SQLITE, release="a" * 53)
    assert invalid(chart) == []
    assert len(f"{chart.workload['metadata']['name']}-5d4f8c7b9d") <= 63


# What the pods may do.


def test_pod_is_unprivileged_and_without_a_token(chart: Rendered) -> None:
    pod, container = chart.pod["spec"], chart.container
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "hostPath" not in chart.text


def test_writable_places_are_volumes(chart: Rendered) -> None:
    writable = {mount["mountPath"] for mount in chart.container["volumeMounts"] if not mount.get("readOnly")}
    assert writable <= {"/tmp", "/var/lib/tocsin"}
    declared = {volume["name"] for volume in chart.pod["spec"]["volumes"]}
    declared |= {claim["metadata"]["name"] for claim in chart.workload["spec"].get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in chart.container["volumeMounts"]} == declared


def test_default_pod_has_the_limits_and_user_of_the_image() -> None:
    chart = rendered(SQLITE)
    assert chart.container["resources"]["limits"].keys() == {"memory", "ephemeral-storage"}
    context = chart.pod["spec"]["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in DOCKERFILE
    assert context["fsGroup"] == context["runAsUser"]


def test_secrets_are_mounted_and_never_written(chart: Rendered) -> None:
    assert "Secret" not in {each["kind"] for each in chart.objects}
    assert "secretKeyRef" not in chart.text
    secrets = {
        volume["name"]: volume["secret"]["secretName"] for volume in chart.pod["spec"]["volumes"] if "secret" in volume
    }
    for mount in chart.container["volumeMounts"]:
        if name := secrets.pop(mount["name"], None):
            assert (mount["mountPath"], mount["readOnly"]) == (f"/run/secrets/{name}", True)
    assert secrets == {}


def test_two_secrets_of_similar_names_are_both_mounted(tmp_path: Path) -> None:
    chart = rendered_values(tmp_path, {**read(POSTGRESQL), "secrets": ["a.b", "a-b", "a" * 253]})
    assert invalid(chart) == []
    assert len({volume["name"] for volume in chart.pod["spec"]["volumes"]}) == 5


def test_network_policy_opens_one_port(tmp_path: Path) -> None:
    policy = rendered(SQLITE).one("NetworkPolicy")["spec"]
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress"], [{"ports": [{"port": "http"}]}])
    narrow = rendered(CHART / "ci/everything-values.yaml").one("NetworkPolicy")["spec"]
    assert narrow["policyTypes"] == ["Ingress", "Egress"]
    assert narrow["ingress"][0]["from"] == read(CHART / "ci/everything-values.yaml")["networkPolicy"]["from"]
    assert {port["port"] for port in narrow["egress"][0]["ports"]} == {53}


# One process on a file, several on a database.


def test_file_belongs_to_one_pod_of_a_stateful_set(tmp_path: Path) -> None:
    chart = rendered(SQLITE)
    assert chart.workload["kind"] == "StatefulSet"
    assert chart.workload["spec"]["replicas"] == 1
    [claim] = chart.workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    [mount] = (one for one in chart.container["volumeMounts"] if one["name"] == claim["metadata"]["name"])
    config = yaml.safe_load(chart.one("ConfigMap")["data"]["tocsin.yaml"])
    assert config["ledger"]["path"].startswith(mount["mountPath"])
    assert "PodDisruptionBudget" not in {each["kind"] for each in chart.objects}


def test_update_keeps_the_old_pods_until_new_ones_stand_by() -> None:
    chart = rendered(POSTGRESQL)
    spec = chart.workload["spec"]
    assert (chart.workload["kind"], spec["replicas"]) == ("Deployment", 3)
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["minReadySeconds"] > 0
    assert chart.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_probes_hold_for_a_pod_that_waits(chart: Rendered) -> None:
    """It has to be available, or no update of the configuration ends; `/readyz` says 503 then."""
    assert {probe["httpGet"]["path"] for probe in probes(chart)} == {"/healthz"}


@pytest.mark.parametrize(("values", "scheme"), [(POSTGRESQL, "http"), (CHART / "ci/everything-values.yaml", "https")])
def test_probes_and_prometheus_follow_the_tls_of_the_port(values: Path, scheme: str) -> None:
    chart = rendered(values)
    assert {probe["httpGet"]["scheme"] for probe in probes(chart)} == {scheme.upper()}
    [monitor] = (each["spec"] for each in chart.objects if each["kind"].endswith("Monitor"))
    [endpoint] = monitor.get("endpoints") or monitor["podMetricsEndpoints"]
    assert endpoint["scheme"] == scheme
    assert ("basicAuth" in endpoint) == (scheme == "https")


# What Tocsin and Prometheus get.


def test_configuration_arrives_as_it_was_written(tmp_path: Path) -> None:
    text = (
        read(SQLITE)["config"]
        + 'x-kept: {on: 1.10, big: 100000000000000000001, old: 0123, text: "{{ row.a }}"} # a comment\n'
    )
    chart = rendered_values(tmp_path, {**read(SQLITE), "config": text})
    assert chart.one("ConfigMap")["data"] == {"tocsin.yaml": text}


def test_changed_configuration_restarts_the_pods(tmp_path: Path) -> None:
    before = rendered(SQLITE).pod["metadata"]
    text = read(SQLITE)["config"].replace("late_orders", "later_orders")
    after = rendered_values(tmp_path, {**read(SQLITE), "config": text}).pod["metadata"]
    assert before["annotations"] != after["annotations"]
    assert before["labels"] == after["labels"]


@pytest.mark.parametrize("values", [SQLITE, POSTGRESQL], ids=["sqlite", "postgresql"])
def test_configuration_of_the_values_is_valid(values: Path, tmp_path: Path) -> None:
    text = read(values)["config"]
    for name, content in {"ledger-url": "postgresql://tocsin@database/tocsin", "warehouse": "secret"}.items():
        (tmp_path / name).write_text(content)
    file = tmp_path / "tocsin.yaml"
    file.write_text(text.replace("/run/secrets/tocsin/", f"{tmp_path}/").replace("/var/lib/tocsin/", f"{tmp_path}/"))
    assert cli.main(["check", "--config", str(file)]) == 0


def test_image_reads_the_configuration_from_the_mount(chart: Rendered) -> None:
    [mount] = (one for one in chart.container["volumeMounts"] if one["name"] == "config")
    assert f"TOCSIN_CONFIG={mount['mountPath']}/tocsin.yaml\n" in DOCKERFILE
    assert "subPath" not in mount, "a file that is mounted alone is never updated"


def test_existing_config_map_replaces_that_of_the_chart() -> None:
    chart = rendered(CHART / "ci/minimal-values.yaml")
    assert {each["kind"] for each in chart.objects} == {"Deployment", "Service"}
    [volume] = (one for one in chart.pod["spec"]["volumes"] if one["name"] == "config")
    assert volume["configMap"]["name"] == "tocsin-configuration"
    assert chart.pod["metadata"].get("annotations") is None


@pytest.mark.parametrize("values", [POSTGRESQL, CHART / "ci/everything-values.yaml"], ids=["service", "pod"])
def test_job_is_the_one_of_the_rules(values: Path) -> None:
    """Rules and dashboards select the job "tocsin", whatever the release is called."""
    chart = rendered(values, release="other")
    [monitor] = (each for each in chart.objects if each["kind"].endswith("Monitor"))
    target = chart.one("Service") if monitor["kind"] == "ServiceMonitor" else chart.pod
    assert target["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "tocsin"


def test_prometheus_rule_is_the_rule_file(tmp_path: Path) -> None:
    rules = (ROOT / "prometheus/rules/tocsin.yml").read_text(encoding="utf-8")
    spec = rendered(POSTGRESQL).one("PrometheusRule")["spec"]
    assert spec == yaml.safe_load(rules)
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True)
    count = sum(len(group["rules"]) for group in spec["groups"])
    assert f"SUCCESS: {count} rules found" in done.stdout
    assert count > 10


def test_notes_render_and_name_the_workload(tmp_path: Path) -> None:
    notes = run_helm("install", "tocsin", CHART, "--values", POSTGRESQL, "--dry-run=client")
    assert "rollout status deployment/tocsin" in notes
    assert "exec deployment/tocsin -- tocsin instances" in notes


# Values.


@pytest.mark.parametrize("name", REFUSALS)
def test_wrong_values_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    wrong, words = REFUSALS[name]
    with pytest.raises(RefusedError) as refused:
        rendered_values(tmp_path, {**read(SQLITE), **wrong})
    assert words in str(refused.value)
    assert "secret@" not in str(refused.value)


def test_schema_describes_exactly_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    described = {path for path, node in properties(schema) if "properties" not in node}
    assert described - {"global"} == {*leaves(read(CHART / "values.yaml"), schema)}
    for path, node in properties(schema):
        assert node["type"] != "object" or node.get("additionalProperties") is False or node["description"], path


def test_everything_differs_from_the_defaults() -> None:
    """So each value is rendered at least once."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults, given = ({**dict(leaf_items(one, schema))} for one in (read(CHART / "values.yaml"), read(CI[0])))
    assert CI[0].name == "everything-values.yaml"
    same = {path for path, default in defaults.items() if given.get(path, default) == default}
    assert same == {"config", "ledger", "networkPolicy.enabled"}


def test_chart_is_of_the_version_of_the_program() -> None:
    project = (ROOT / "exporter/pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{read(CHART / "Chart.yaml")["appVersion"]}"\n' in project


def test_readme_and_rules_of_the_chart_are_current() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert readme == generate.values_table(readme), "run: make docs"
    assert generate.CHART_RULES.read_bytes() == generate.RULES.read_bytes(), "run: make docs"


def test_package_has_what_it_renders(tmp_path: Path) -> None:
    run_helm("package", CHART, "--destination", tmp_path)
    [package] = tmp_path.iterdir()
    command = [str(helm()), "template", "tocsin", str(package), "--namespace", "alerting", "--values", str(POSTGRESQL)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == rendered(POSTGRESQL).text


def selectors(each: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The selectors of pods in an object, and of the Service, whose labels have the same."""
    spec = each.get("spec", {})
    if each["kind"] == "Service":
        yield spec["selector"]
    for key in ("selector", "podSelector"):
        if "matchLabels" in spec.get(key, {}):
            yield spec[key]["matchLabels"]
    for spread in spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", []):
        yield spread["labelSelector"]["matchLabels"]


def probes(chart: Rendered) -> list[dict[str, Any]]:
    return [chart.container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]


def properties(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, node in schema["properties"].items():
        yield f"{prefix}{name}", node
        if "properties" in node:
            yield from properties(node, f"{prefix}{name}.")


def leaves(values: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    return (path for path, _ in leaf_items(values, schema))


def leaf_items(values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        node = schema["properties"][name]
        if "properties" in node:
            yield from leaf_items(value, node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

"""A Kubernetes API server accepts what the chart renders, and Helm installs, upgrades and removes it there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api_server import NAMESPACE, ApiServer, running_api_server
from support.helm import CHART, CI, rendered, run_helm
from support.kubernetes_programs import HelmMajor

# The first run builds Helm and the server.
pytestmark = [pytest.mark.timeout(5400), pytest.mark.xdist_group("api-server")]

SQLITE, POSTGRESQL = CHART / "ci/sqlite-values.yaml", CHART / "ci/postgresql-values.yaml"

each_helm = pytest.mark.parametrize("major", [4, 3], ids=["helm4", "helm3"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_api_server(tmp_path_factory.mktemp("api-server")) as started:
        yield started


@each_helm
@pytest.mark.parametrize("values", CI, ids=lambda file: file.name)
def test_server_accepts_every_object_without_a_warning(server: ApiServer, values: Path, major: HelmMajor) -> None:
    """In a namespace that warns of each hardening that a restricted pod lacks."""
    for each in rendered(values, major=major).objects:
        answer = server.tried(each)
        assert (answer.status, answer.warnings) == (201, []), answer.body


def test_server_refuses_what_schemas_do_not_find(server: ApiServer) -> None:
    """Shows that the dry run counts."""
    service = rendered(SQLITE).one("Service")
    service["spec"]["ports"][0]["port"] = 80800
    assert server.tried(service).status == 422
    workload = rendered(SQLITE).workload
    workload["spec"]["template"]["metadata"]["labels"] = {"other": "labels"}
    assert server.tried(workload).status == 422
    rule = rendered(POSTGRESQL).one("PrometheusRule")
    rule["spec"]["groups"][0]["rules"][0]["fore"] = "5m"
    assert server.tried(rule).status == 400


def test_server_warns_of_a_pod_that_is_not_restricted(server: ApiServer) -> None:
    workload = rendered(SQLITE).workload
    del workload["spec"]["template"]["spec"]["securityContext"]
    [warning] = server.tried(workload).warnings
    assert "runAsNonRoot" in warning


@each_helm
def test_release_is_installed_upgraded_and_removed(server: ApiServer, major: HelmMajor, tmp_path: Path) -> None:
    """From a file to PostgreSQL: the StatefulSet goes, the Deployment comes, and nothing is left in the end."""
    release = f"tocsin{major}"
    options = ("--namespace", NAMESPACE, "--values")

    def run(*arguments: str | Path) -> str:
        return run_helm(*arguments, major=major, kubeconfig=server.kubeconfig())

    run("install", release, CHART, *options, SQLITE)
    before, after = rendered(SQLITE, release=release), rendered(POSTGRESQL, release=release)
    assert all(server.stored(each).status == 200 for each in before.objects)
    changed = tmp_path / "values.yaml"
    changed.write_text(SQLITE.read_text().replace("late_orders", "later_orders"))
    run("upgrade", release, CHART, *options, changed)
    assert "later_orders" in server.stored(before.one("ConfigMap")).body["data"]["tocsin.yaml"]
    run("upgrade", release, CHART, *options, POSTGRESQL)
    assert all(server.stored(each).status == 200 for each in after.objects)
    assert server.stored(before.workload).status == 404
    run("uninstall", release, "--namespace", NAMESPACE)
    assert {server.stored(each).status for each in after.objects} == {404}


@pytest.mark.parametrize("values", CI, ids=lambda file: file.name)
def test_both_versions_of_helm_render_the_same(values: Path) -> None:
    assert rendered(values, major=3).objects == rendered(values, major=4).objects

"""What Kubernetes' controllers make of the chart: updates, drains, and never two pods on one file.

The controllers are real; the pods do not run, and are ready as their probes would say.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api_server import NAMESPACE, running_api_server
from support.cluster import Cluster, Pod, is_ready, is_terminating, running_cluster
from support.helm import CHART, Rendered, rendered, run_helm
from support.waiting import seen

pytestmark = [pytest.mark.timeout(5400), pytest.mark.xdist_group("rollouts")]

SQLITE, POSTGRESQL = CHART / "ci/sqlite-values.yaml", CHART / "ci/postgresql-values.yaml"
SLOW = 90.0
"""Seconds for an update: each new pod has to be ready for `minReadySeconds`."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_api_server(tmp_path) as server, running_cluster(server) as started:
        yield started


def helm(cluster: Cluster, *arguments: str | Path) -> None:
    run_helm(*arguments, "--namespace", NAMESPACE, kubeconfig=cluster.server.kubeconfig())


def install(cluster: Cluster, values: Path) -> Rendered:
    """Install the chart, and wait until its pods are available."""
    helm(cluster, "install", "tocsin", CHART, "--values", values)
    chart = rendered(values)
    seen(lambda: complete(cluster, chart), "all pods are available", SLOW)
    return chart


def changed(values: Path, folder: Path) -> Path:
    file = folder / "changed.yaml"
    file.write_text(values.read_text().replace("late_orders", "later_orders"))
    return file


def complete(cluster: Cluster, chart: Rendered) -> bool:
    """As `kubectl rollout status` and `helm --wait` ask."""
    found: dict[str, Any] = cluster.server.stored(chart.workload).body
    status, wanted = found["status"], found["spec"]["replicas"]
    if status.get("observedGeneration") != found["metadata"]["generation"]:
        return False
    counts = [status.get(key, 0) for key in ("updatedReplicas", "availableReplicas", "replicas")]
    return counts == [wanted] * 3


def watched(cluster: Cluster, condition: Callable[[], object], seconds: float = SLOW) -> list[list[Pod]]:
    """The pods again and again, until a condition holds."""
    pods: list[list[Pod]] = []

    def probe() -> object:
        pods.append(cluster.pods())
        return condition()

    seen(probe, "the condition", seconds)
    return pods


def test_update_keeps_as_many_pods_as_there_were(cluster: Cluster, tmp_path: Path) -> None:
    chart = install(cluster, POSTGRESQL)
    old = {pod["metadata"]["name"] for pod in cluster.pods()}
    helm(cluster, "upgrade", "tocsin", CHART, "--values", changed(POSTGRESQL, tmp_path))
    seen_pods = watched(cluster, lambda: complete(cluster, chart))
    seen(lambda: old.isdisjoint(pod["metadata"]["name"] for pod in cluster.pods()), "the end of the old pods")
    assert min(sum(is_ready(pod) and not is_terminating(pod) for pod in pods) for pods in seen_pods) == 3
    assert max(len(pods) for pods in seen_pods) > 3, "a new one comes first"


def test_update_would_not_end_if_those_that_stand_by_were_not_ready(cluster: Cluster, tmp_path: Path) -> None:
    """Why the readiness probe is not /readyz."""
    chart = install(cluster, POSTGRESQL)
    former = {pod["metadata"]["name"] for pod in cluster.pods()}
    cluster.is_ready = lambda pod: pod["metadata"]["name"] in former
    helm(cluster, "upgrade", "tocsin", CHART, "--values", changed(POSTGRESQL, tmp_path))
    time.sleep(30)  # twice as long as one pod of an update takes
    assert former < {pod["metadata"]["name"] for pod in cluster.pods()}
    assert not complete(cluster, chart)


def test_drain_evicts_one_pod_at_a_time(cluster: Cluster) -> None:
    install(cluster, POSTGRESQL)
    first, second, _ = cluster.pods()
    seen(lambda: cluster.evict(first) == 201, "the first eviction")
    assert cluster.evict(second) == 429
    seen(lambda: cluster.evict(second) == 201, "the second, once another pod is available", SLOW)


def test_pod_on_the_file_starts_when_the_one_before_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    """Also while the old one takes its time to end, or its node does not answer."""
    chart = install(cluster, SQLITE)
    cluster.ends = False
    [old] = cluster.pods()
    cluster.delete(old)
    helm(cluster, "upgrade", "tocsin", CHART, "--values", changed(SQLITE, tmp_path))
    time.sleep(5)
    [still] = cluster.pods()
    assert (still["metadata"]["uid"], is_terminating(still)) == (old["metadata"]["uid"], True)
    cluster.ends = True
    pods = watched(cluster, lambda: complete(cluster, chart))
    assert max(map(len, pods)) == 1


def test_deployment_would_start_a_second_pod_on_the_file(cluster: Cluster) -> None:
    """Why it is a StatefulSet: `Recreate` counts for updates only."""
    install(cluster, POSTGRESQL)
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/tocsin"
    recreate = {"spec": {"replicas": 1, "strategy": {"type": "Recreate", "rollingUpdate": None}}}
    patched = cluster.server.ask("PATCH", path, recreate, kind="application/merge-patch+json")
    assert patched.status == 200, patched.body
    seen(lambda: len(cluster.pods()) == 1, "one pod")
    cluster.ends = False
    [old] = cluster.pods()
    cluster.delete(old)
    seen(lambda: len(cluster.pods()) == 2, "a second pod beside the one that has not ended")

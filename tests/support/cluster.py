"""The controllers of Kubernetes on an API server, and a kubelet that only says which pods run: no container does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from support.api_server import NAMESPACE, ApiServer, reserved_port, running_process
from support.kubernetes_programs import controller_manager

Pod: TypeAlias = dict[str, Any]

_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_CONTROLLERS = ("deployment", "replicaset", "statefulset", "disruption")
_EVERY = 0.1


@dataclass(slots=True)
class Cluster:
    server: ApiServer
    is_ready: Callable[[Pod], bool] = lambda _: True
    """Whether the readiness probe of a running pod succeeds."""
    ends: bool = True
    """Whether pods end that are asked to."""
    ended: threading.Event = field(default_factory=threading.Event)

    def pods(self) -> list[Pod]:
        found: list[Pod] = self.server.ask("GET", _PODS).body["items"]
        return found

    def delete(self, pod: Pod) -> None:
        self.server.ask("DELETE", f"{_PODS}/{_name(pod)}")

    def evict(self, pod: Pod) -> int:
        """The status of the answer: 429 where a PodDisruptionBudget is in the way."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": _name(pod)}}
        return self.server.ask("POST", f"{_PODS}/{_name(pod)}/eviction", eviction).status

    def run(self) -> None:
        """Be the kubelet and the scheduler, until `ended`."""
        while not self.ended.wait(_EVERY):
            for pod in self.pods():
                self._step(pod)

    def _step(self, pod: Pod) -> None:
        path = f"{_PODS}/{_name(pod)}"
        if is_terminating(pod):
            if self.ends:
                self.server.ask("DELETE", f"{path}?gracePeriodSeconds=0")
        elif "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": "node"}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": _name(pod)}, "target": target}
            self.server.ask("POST", f"{path}/binding", binding)
        elif (wanted := self.is_ready(pod)) != is_ready(pod) or pod["status"]["phase"] != "Running":
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            condition = {"type": "Ready", "status": str(wanted), "lastTransitionTime": now}
            status = {"status": {"phase": "Running", "conditions": [condition]}}
            kind = "application/strategic-merge-patch+json"
            self.server.ask("PATCH", f"{path}/status", status, kind=kind)


def is_ready(pod: Pod) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def is_terminating(pod: Pod) -> bool:
    return "deletionTimestamp" in pod["metadata"]


@contextmanager
def running_cluster(server: ApiServer) -> Iterator[Cluster]:
    """A cluster without pods."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    server.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", account)
    command = [str(controller_manager()), f"--kubeconfig={server.kubeconfig()}", "--leader-elect=false"]
    command += ["--bind-address=127.0.0.1", f"--secure-port={reserved_port()}", f"--cert-dir={server.folder}"]
    command += [f"--controllers={','.join(f'{name}-controller' for name in _CONTROLLERS)}"]
    cluster = Cluster(server)
    kubelet = threading.Thread(target=cluster.run, name="kubelet")
    with running_process(command, server.folder / "controllers.log"):
        kubelet.start()
        try:
            yield cluster
        finally:
            cluster.ended.set()
            kubelet.join()


def _name(pod: Pod) -> str:
    return str(pod["metadata"]["name"])

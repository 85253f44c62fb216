"""The Helm chart, rendered."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from support.kubernetes_programs import KUBERNETES_VERSION, HelmMajor, helm, kubeconform, schemas
from support.scripts import ROOT

Object: TypeAlias = dict[str, Any]

CHART = ROOT / "deploy" / "helm" / "tocsin"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
"""Values for the chart's tests, named as chart-testing wants them."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What Helm would send to the cluster."""

    text: str
    objects: Sequence[Object]

    def one(self, *kinds: str) -> Object:
        [found] = (each for each in self.objects if each["kind"] in kinds)
        return found

    @property
    def workload(self) -> Object:
        return self.one("StatefulSet", "Deployment")

    @property
    def pod(self) -> Object:
        pod: Object = self.workload["spec"]["template"]
        return pod

    @property
    def container(self) -> Object:
        [container] = self.pod["spec"]["containers"]
        found: Object = container
        return found


class RefusedError(Exception):
    """Helm's message about values."""


def run_helm(*arguments: str | Path, major: HelmMajor = 4, kubeconfig: Path | None = None) -> str:
    """Run Helm, by default without a cluster, and return its output. Raises RefusedError."""
    command = [str(helm(major)), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.defpath, "KUBECONFIG": str(kubeconfig or "")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RefusedError(done.stderr.strip())
    return done.stdout


def rendered(values: Path, *options: str, major: HelmMajor = 4, release: str = "tocsin") -> Rendered:
    # Helm 3 that is built by `go install` takes the cluster for one of Kubernetes 1.20.
    given = ("--namespace", "alerting", "--kube-version", KUBERNETES_VERSION, "--values", str(values), *options)
    text = run_helm("template", release, CHART, *given, major=major)
    return Rendered(text, read_objects(text))


def read_objects(text: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(text) if each is not None]


def rendered_values(folder: Path, values: Mapping[str, Any], *options: str) -> Rendered:
    """The same of values that are not in a file yet."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
    return rendered(file, *options)


def invalid(chart: Rendered) -> list[str]:
    """What the schemas of Kubernetes and prometheus-operator refuse, with kubeconform's words."""
    location = f"{schemas()}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    command = [str(kubeconform()), "-strict", "-verbose", "-summary", "-schema-location", location]
    done = subprocess.run(command, input=chart.text, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    valid = sum(" is valid" in line for line in lines)
    complete = valid == len(chart.objects) and not done.returncode  # without an object it also succeeds
    return [] if complete else [line for line in lines if " is valid" not in line]

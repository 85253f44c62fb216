"""Helm, kubeconform and a Kubernetes API server, built by Go from their modules into the user's cache.

The first build takes minutes: Helm four, the API server a quarter of an hour.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Literal

from support.downloads import cached, go
from support.kubernetes_schemas import write_schemas

HelmMajor = Literal[4, 3]

HELM_VERSIONS: dict[HelmMajor, str] = {4: "4.3.2", 3: "3.22.0"}
KUBECONFORM_VERSION, KUBERNETES_VERSION, ETCD_VERSION = "0.8.0", "1.37.2", "3.7.3"
OPERATOR_VERSION = "0.85.0"
"""Of prometheus-operator: the newest whose module has the definitions of its resources."""


def helm(major: HelmMajor = 4) -> Path:
    version = HELM_VERSIONS[major]

    def fetch(new: Path, _: Path) -> None:
        _install(f"helm.sh/helm/v{major}/cmd/helm@v{version}", new)

    return cached(f"helm-{version}", fetch) / "helm"


def kubeconform() -> Path:
    def fetch(new: Path, _: Path) -> None:
        _install(f"github.com/yannh/kubeconform/cmd/kubeconform@v{KUBECONFORM_VERSION}", new)

    return cached(f"kubeconform-{KUBECONFORM_VERSION}", fetch) / "kubeconform"


def schemas() -> Path:
    """The folder with a strict JSON Schema of each kind of Kubernetes and of prometheus-operator, as kubeconform names
    them, and `crds/` with the definitions of the latter."""

    def fetch(new: Path, _: Path) -> None:
        kubernetes = _module(f"k8s.io/kubernetes@v{KUBERNETES_VERSION}", new)
        operator = _module(f"github.com/prometheus-operator/prometheus-operator@v{OPERATOR_VERSION}", new)
        (new / "crds").mkdir()
        for name in ("servicemonitors", "podmonitors", "prometheusrules"):
            file = f"{name}-crd.json"
            shutil.copyfile(operator / "jsonnet/prometheus-operator" / file, new / "crds" / file)
        write_schemas(kubernetes / "api/openapi-spec/swagger.json", sorted((new / "crds").iterdir()), new)

    return cached(f"kubernetes-schemas-{KUBERNETES_VERSION}-{OPERATOR_VERSION}", fetch)


def api_server() -> Path:
    return _kubernetes("kube-apiserver")


def controller_manager() -> Path:
    return _kubernetes("kube-controller-manager")


def etcd() -> Path:
    def fetch(new: Path, _: Path) -> None:
        # It cannot be installed, since its go.mod has replacements.
        go("mod", "init", "etcd", cwd=new)
        go("get", f"go.etcd.io/etcd/server/v3@v{ETCD_VERSION}", cwd=new)
        go("build", "-trimpath", "-o", str(new / "etcd"), "go.etcd.io/etcd/server/v3", cwd=new, CGO_ENABLED="0")

    return cached(f"etcd-{ETCD_VERSION}", fetch) / "etcd"


def _kubernetes(program: str) -> Path:
    def fetch(new: Path, _: Path) -> None:
        # Its go.mod refers to folders beside it, which the module does not have; they are modules of their own.
        asked = _module(f"k8s.io/kubernetes@v{KUBERNETES_VERSION}", new)
        source = new / "source"
        left_out = shutil.ignore_patterns("vendor", "go.work", "go.work.sum", "test", "docs", "CHANGELOG")
        shutil.copytree(asked, source, copy_function=shutil.copyfile, ignore=left_out)
        for folder in (source, *(each for each in source.rglob("*") if each.is_dir())):
            folder.chmod(0o755)  # the cache of modules is read-only
        beside = re.findall(r"^\s*(k8s\.io/\S+) => \./staging", (source / "go.mod").read_text(), re.MULTILINE)
        version = KUBERNETES_VERSION.replace("1.", "0.", 1)
        edits = [part for name in beside for part in (f"-dropreplace={name}", f"-require={name}@v{version}")]
        go("mod", "edit", *edits, cwd=source)
        values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": "1", "gitMinor": KUBERNETES_VERSION.split(".")[1]}
        named = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())
        options = ("-mod=mod", "-trimpath", f"-ldflags={named}", "-o", str(new))
        go("build", *options, f"./cmd/{program}", cwd=source, CGO_ENABLED="0", GOWORK="off")
        shutil.rmtree(source)

    return cached(f"{program}-{KUBERNETES_VERSION}", fetch) / program


def _install(program: str, folder: Path) -> None:
    go("install", "-trimpath", program, cwd=folder, GOBIN=str(folder), CGO_ENABLED="0")


def _module(name: str, cwd: Path) -> Path:
    return Path(json.loads(go("mod", "download", "-json", name, cwd=cwd))["Dir"])

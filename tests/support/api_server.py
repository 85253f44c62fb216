"""A Kubernetes API server on the loopback address, with etcd and without controllers: objects are stored, and nothing
runs."""

import json
import random
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.kubernetes_programs import api_server, etcd, schemas
from support.waiting import seen

NAMESPACE = "alerting"
_TOKEN = "a-token-of-these-tests"
_SOON = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class ApiServer:
    url: str
    folder: Path

    def ask(self, method: str, path: str, body: object = None, *, kind: str = "application/json") -> Answer:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {_TOKEN}", "Content-Type": kind},
        )
        unverified = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=30, context=unverified) as answer:
                return Answer(answer.status, json.loads(answer.read()), answer.headers.get_all("Warning", []))
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            body = json.loads(text) if text.startswith("{") else text  # an API that does not exist yet
            return Answer(error.code, body, error.headers.get_all("Warning", []))

    def tried(self, each: Mapping[str, Any]) -> Answer:
        """Create an object without keeping it; a field that does not exist is an error."""
        return self.ask("POST", f"{_path(each)}?dryRun=All&fieldValidation=Strict", each)

    def stored(self, each: Mapping[str, Any]) -> Answer:
        return self.ask("GET", f"{_path(each)}/{each['metadata']['name']}")

    def kubeconfig(self) -> Path:
        file = self.folder / "kubeconfig"
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
            "current-context": "test",
        }
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        file.chmod(0o600)
        return file


@contextmanager
def running_api_server(folder: Path) -> Iterator[ApiServer]:
    """With the definitions of prometheus-operator, and a namespace for restricted pods."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    format_ = serialization.PrivateFormat.TraditionalOpenSSL
    pem = key.private_bytes(serialization.Encoding.PEM, format_, serialization.NoEncryption())
    (folder / "accounts.pem").write_bytes(pem)
    (folder / "tokens.csv").write_text(f'{_TOKEN},tester,1,"system:masters"\n')
    client, peer, port = (reserved_port() for _ in range(3))
    store = [str(etcd()), "--data-dir", str(folder / "etcd"), "--log-level=error", "--unsafe-no-fsync"]
    store += [f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}"]
    store += [f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}"]
    store += [f"--initial-cluster=default=http://127.0.0.1:{peer}"]
    server = [str(api_server()), f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={port}"]
    server += ["--bind-address=127.0.0.1", f"--cert-dir={folder}", "--endpoint-reconciler-type=none"]
    server += ["--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC"]
    server += [f"--token-auth-file={folder / 'tokens.csv'}", "--service-account-issuer=https://127.0.0.1"]
    server += [f"--service-account-{name}-file={folder / 'accounts.pem'}" for name in ("key", "signing-key")]
    found = ApiServer(f"https://127.0.0.1:{port}", folder)
    with running_process(store, folder / "etcd.log"), running_process(server, folder / "server.log"):
        seen(lambda: _ready(found), f"an API server; see {folder}", _SOON)
        _prepare(found)
        yield found


def reserved_port() -> int:
    """A port without a listener, below those that the system gives to others: it is bound only seconds later."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def running_process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.kill()


def _ready(server: ApiServer) -> bool:
    try:
        return server.ask("GET", "/api/v1/namespaces/default").status == 200
    except OSError:
        return False


def _prepare(server: ApiServer) -> None:
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    made = [server.ask("POST", "/api/v1/namespaces", namespace)]
    kinds = []
    for file in (schemas() / "crds").iterdir():
        definition = json.loads(file.read_text(encoding="utf-8"))
        made.append(server.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition))
        kinds.append(definition["spec"]["names"]["plural"])
    assert {answer.status for answer in made} == {201}, made
    group = f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}"
    for kind in kinds:
        seen(lambda kind=kind: server.ask("GET", f"{group}/{kind}").status == 200, f"the API of {kind}", _SOON)  # type: ignore[misc]


def _path(each: Mapping[str, Any]) -> str:
    version, kind = each["apiVersion"], each["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    return f"/{'apis' if '/' in version else 'api'}/{version}/namespaces/{NAMESPACE}/{plural}"

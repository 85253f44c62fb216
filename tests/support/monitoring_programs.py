"""The programs of Prometheus and Alertmanager: those that this machine has, and those of today.

The latter are built by Go from their modules, once, into the user's cache and without web pages. It takes some minutes.
"""

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest

from support.downloads import cached, go

Generation = Literal["installed", "newest"]

each_generation = pytest.mark.parametrize("generation", ["installed", "newest"])

PROMETHEUS_VERSION, ALERTMANAGER_VERSION = "3.16.0", "0.35.0"


def installed(name: str) -> str | None:
    """The path of a program of this machine."""
    return shutil.which(name) or shutil.which(f"prometheus-{name}")  # Debian's name of Alertmanager


def program(name: str, generation: Generation = "installed") -> str:
    """The path of `prometheus`, `promtool`, `alertmanager` or `amtool`. Skips the test where it cannot be had."""
    if generation == "newest":
        return str((newest_prometheus() if name.startswith("prom") else newest_alertmanager()) / name)
    if (found := installed(name)) is None:
        pytest.skip(f"{name} is not on the PATH")
    return found


def newest_prometheus() -> Path:
    """The folder with `prometheus` and `promtool`."""
    return cached(f"prometheus-{PROMETHEUS_VERSION}", _prometheus)


def newest_alertmanager() -> Path:
    """The folder with `alertmanager` and `amtool`."""
    return cached(f"alertmanager-{ALERTMANAGER_VERSION}", _alertmanager)


def _prometheus(new: Path, _: Path) -> None:
    # Its modules count 3.16 as 0.316. Without the tag it has every cloud's service discovery.
    module, version = "github.com/prometheus/prometheus", f"v0.{PROMETHEUS_VERSION.replace('.', '', 1)}"
    names = (f"{module}/cmd/{name}@{version}" for name in ("prometheus", "promtool"))
    go("install", "-tags=remove_all_sd", *names, cwd=new, GOBIN=str(new))


def _alertmanager(new: Path, _: Path) -> None:
    # It cannot be installed: the module has no built web page, which its code embeds.
    asked = ("mod", "download", "-json", f"github.com/prometheus/alertmanager@v{ALERTMANAGER_VERSION}")
    source = new / "source"
    shutil.copytree(json.loads(go(*asked, cwd=new))["Dir"], source, copy_function=shutil.copyfile)
    for folder in (source, *(each for each in source.rglob("*") if each.is_dir())):
        folder.chmod(0o755)  # the cache of modules is read-only
    (source / "ui" / "app" / "dist").mkdir(parents=True, exist_ok=True)
    (source / "ui" / "app" / "dist" / "empty").touch()
    go("build", "-o", str(new), "./cmd/alertmanager", "./cmd/amtool", cwd=source)
    shutil.rmtree(source)

"""Packages that register types of channels and sources, installed for the length of a test."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tocsin import registry


class Packages:
    """A folder on the path of modules."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, package: str, code: str = "", *, channels: str = "", sources: str = "") -> None:
        """Install a package that registers types, each with a module of this code."""
        metadata = self._folder / f"{package}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        groups: Mapping[str, str] = {"tocsin.channels": channels, "tocsin.sources": sources}
        modules = {group: re.sub(r"\W", "_", f"{package}_{kind}") for group, kind in groups.items() if kind}
        points = [f"[{group}]\n{groups[group]} = {module}\n" for group, module in modules.items()]
        (metadata / "entry_points.txt").write_text("".join(points))
        for module in modules.values():
            (self._folder / f"{module}.py").write_text(code)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    registry._registered.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    yield Packages(tmp_path)
    registry._registered.cache_clear()

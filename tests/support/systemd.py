"""The units of systemd, read and checked without a running systemd."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.scripts import ROOT

UNITS = ROOT / "deploy" / "systemd"

PROGRAM = "/opt/tocsin/bin/tocsin"


def analyze(*arguments: str | Path) -> tuple[int, str]:
    """The status and the output of systemd-analyze. Skips the test where it is not there."""
    if (found := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not on the PATH")
    done = subprocess.run([found, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def settings(text: str, key: str) -> list[str]:
    """The values of a key, in their order."""
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def installable(unit: Path, folder: Path) -> Path:
    """A copy whose program exists on every machine, since a missing one is an error."""
    copy = folder / unit.name
    text = unit.read_text(encoding="utf-8")
    assert text.count(PROGRAM) == 1
    copy.write_text(text.replace(PROGRAM, "/bin/true"), encoding="utf-8")
    return copy

"""Commands whose standard streams the caller has closed, as some supervisors do, whose output finds no room, or whose
locale is ASCII."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CLOSING = "import os, sys; os.close({0}); os.execv(sys.executable, [sys.executable, '-m', 'tocsin', *sys.argv[1:]])"


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_closed_stream_is_an_empty_one(descriptor: int, tmp_path: Path) -> None:
    """`init` without a terminal prints a first configuration."""
    command = [sys.executable, "-c", _CLOSING.format(descriptor), "init"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("alerts:" in done.stdout) is (descriptor != 1)
    assert "defect" not in done.stderr


def test_output_without_room_is_named() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "tocsin", "init"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "tocsin: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    ("text", "status", "shown"), [("Zo\u00eb", 0, "owner: Zo\u00eb"), ("Zo\udceb", 1, "it is not UTF-8 text")]
)
def test_streams_are_utf8_in_any_locale(text: str, status: int, shown: str) -> None:
    command = [sys.executable, "-m", "tocsin", "check", "--show", "-c", "-"]
    locale = {**os.environ, "PYTHONIOENCODING": "ascii"}
    given = _NAMED.format(text).encode(errors="surrogateescape")
    done = subprocess.run(command, input=given, capture_output=True, env=locale, timeout=60)
    assert done.returncode == status, done.stderr
    assert shown in (done.stdout or done.stderr).decode()


_NAMED = """
sources: {{db: {{type: postgres, host: 127.0.0.1, user: tocsin}}}}
channels: {{line: {{type: console}}}}
alerts: {{late: {{source: db, query: SELECT 1 AS id, key: [id], annotations: {{owner: {}}}, notify: [line]}}}}
"""

"""CI installs the real servers that tests need, and a test that would be skipped for lack of one fails there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.skips import VARIABLE

ROOT = Path(__file__).parents[2]
RUN = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
INSTALLED = dict(re.findall(r"command -v (\S+) >/dev/null \|\| packages\+=\((\S+)\)", RUN))
"""Program -> its Debian package."""
TESTS = """
import pytest

@pytest.mark.skipif(True, reason="there is no broker")
def test_marked(): ...

@pytest.fixture
def broker():
    pytest.skip("there is no broker")

def test_fixture(broker): ...

def test_rights():
    pytest.skip("needs the right to mount a file system")

@pytest.mark.live
@pytest.mark.skipif(True, reason="no server is named")
def test_live(): ...
"""


@pytest.mark.parametrize("ci", [False, True])
def test_missing_server_skips_locally_and_fails_in_ci(tmp_path: Path, ci: bool) -> None:
    (tmp_path / "test_parts.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = live: needs a server\n")
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE and not name.startswith("PYTEST")}
    environ |= {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | (
        {VARIABLE: "1"} if ci else {}
    )
    command = [sys.executable, "-m", "pytest", "-p", "support.skips", "-p", "no:cacheprovider", "-v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environ)
    outcomes = dict(re.findall(r"^test_parts\.py::test_(\w+) (\w+)", done.stdout, re.MULTILINE))
    assert outcomes == {
        "marked": "ERROR" if ci else "SKIPPED",
        "fixture": "ERROR" if ci else "SKIPPED",
        "rights": "SKIPPED",
        "live": "SKIPPED",
    }
    assert not ci or f"{VARIABLE} is set" in done.stdout


def test_all_tests_use_this_and_ci_sets_it(request: pytest.FixtureRequest) -> None:
    hooks = [getattr(each, "pytest_runtest_makereport", None) for each in request.config.pluginmanager.get_plugins()]
    assert any(getattr(hook, "__module__", "") == "support.skips" for hook in hooks)
    assert RUN.index(f"export {VARIABLE}=1") < RUN.index("\nmake test")


def test_ci_installs_every_program_that_tests_use() -> None:
    # Programs that come with others, Debian's own, and Go, which PyPI has too.
    companions = {"prometheus", "prometheus-alertmanager", "alertmanager", "epmd", "rabbitmqctl", "docker"}
    companions |= {"apt-get", "dpkg-deb", "amtool", "go"}
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py")]
    used = {name for text in texts for name in re.findall(r"shutil\.which\(\"([\w-]+)\"", text)}
    used |= {name for text in texts for name in re.findall(r"\bprogram\(\"([\w-]+)\"", text)}
    used |= {name for text in texts for name in re.findall(r"cached\(.*?, \"([\w-]+)\"\)", text)}
    assert {"mvn", "prometheus"} <= used
    assert used - INSTALLED.keys() - companions == set()
    assert (INSTALLED["promtool"], INSTALLED["rabbitmq-server"]) == ("prometheus", "rabbitmq-server")

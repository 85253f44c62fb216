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

def test_body():
    pytest.skip("there is no broker")

@pytest.fixture
def broker():
    pytest.skip("there is no broker")

def test_fixture(broker): ...

def test_rights():
    pytest.skip("needs the right to mount a file system")

@pytest.mark.live
@pytest.mark.skipif(True, reason="no server is named")
def test_live(): ...

@pytest.mark.xfail
def test_known():
    assert False

def test_sound(): ...
"""


def outcomes(directory: Path, **environment: str) -> tuple[dict[str, str], str]:
    """The outcome of each of these tests, and the output."""
    (directory / "test_parts.py").write_text(TESTS)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = live: needs a server\n")
    clean = {name: value for name, value in os.environ.items() if name != VARIABLE and not name.startswith("PYTEST")}
    options = ("-p", "support.skips", "-p", "no:cacheprovider", "-v", "-rA")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(directory)],
        cwd=directory,
        capture_output=True,
        text=True,
        env={**clean, "PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
    )
    return dict(re.findall(r"^test_parts\.py::test_(\w+) (\w+)", done.stdout, re.MULTILINE)), done.stdout


def test_missing_server_skips_locally_and_fails_in_ci(tmp_path: Path) -> None:
    always = {"rights": "SKIPPED", "live": "SKIPPED", "known": "XFAIL", "sound": "PASSED"}
    assert outcomes(tmp_path)[0] == {**always, "marked": "SKIPPED", "body": "SKIPPED", "fixture": "SKIPPED"}
    in_ci, output = outcomes(tmp_path, **{VARIABLE: "1"})
    assert in_ci == {**always, "marked": "ERROR", "body": "FAILED", "fixture": "ERROR"}
    assert output.count(f"{VARIABLE} is set") >= 3
    assert "there is no broker" in output


def test_all_tests_use_this_and_ci_sets_it(request: pytest.FixtureRequest) -> None:
    hooks = [getattr(each, "pytest_runtest_makereport", None) for each in request.config.pluginmanager.get_plugins()]
    assert any(getattr(hook, "__module__", "") == "support.skips" for hook in hooks)
    assert RUN.index(f"export {VARIABLE}=1") < RUN.index("\nmake test")


def test_ci_installs_every_program_that_tests_use() -> None:
    # Programs that come with others, and Debian's own.
    companions = {"prometheus", "prometheus-alertmanager", "alertmanager", "epmd", "rabbitmqctl", "docker"}
    companions |= {"apt-get", "dpkg-deb"}
    used = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"shutil\.which\(\"([\w-]+)\"", file.read_text(encoding="utf-8"))
    }
    assert {"mvn", "openssl", "prometheus"} <= used
    assert used - INSTALLED.keys() - companions == set()
    assert INSTALLED["promtool"] == "prometheus"
    assert INSTALLED["rabbitmq-server"] == "rabbitmq-server"

"""In CI nothing is passed over in silence: what real parts the tests need is installed, and a test that does not find
one fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.skips import VARIABLE

ROOT = Path(__file__).parents[2]
RUN = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
NEEDS = {
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "rabbitmq-server": "rabbitmq-server",
    "pgbouncer": "pgbouncer",
    "java": "default-jre-headless",
    "mvn": "maven",
    "openssl": "openssl",
    "chromium": "chromium",
}
"""Program -> the package of Debian that has it."""
TESTS = """
import pytest

@pytest.mark.skipif(True, reason="there is no broker")
def test_marked(): ...

def test_in_the_middle():
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
def test_known_to_fail():
    assert False

def test_sound(): ...
"""


def outcomes(directory: Path, **environment: str) -> tuple[dict[str, str], str]:
    """What becomes of each of these tests, and all that is printed."""
    (directory / "test_parts.py").write_text(TESTS)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = live: wants a server\n")
    clean = {name: value for name, value in os.environ.items() if name != VARIABLE and not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "support.skips", "-p", "no:cacheprovider", "-v", "-rA", str(directory)],
        cwd=directory,
        capture_output=True,
        text=True,
        env={**clean, "PYTHONPATH": str(ROOT / "tests"), **environment},
    )
    return dict(re.findall(r"^test_parts\.py::test_(\w+) (\w+)", done.stdout, re.MULTILINE)), done.stdout


def test_a_test_that_finds_a_real_part_missing_is_skipped_at_home_and_fails_in_ci(tmp_path: Path) -> None:
    always = {"rights": "SKIPPED", "live": "SKIPPED", "known_to_fail": "XFAIL", "sound": "PASSED"}
    at_home, _ = outcomes(tmp_path)
    assert at_home == {**always, "marked": "SKIPPED", "in_the_middle": "SKIPPED", "fixture": "SKIPPED"}
    in_ci, said = outcomes(tmp_path, **{VARIABLE: "1"})
    assert in_ci == {**always, "marked": "ERROR", "in_the_middle": "FAILED", "fixture": "ERROR"}
    assert said.count(f"{VARIABLE} is set") >= 3
    assert "there is no broker" in said


def test_this_holds_for_all_tests_and_ci_asks_for_it(request: pytest.FixtureRequest) -> None:
    plugins = request.config.pluginmanager.get_plugins()
    hooks = [getattr(plugin, "pytest_runtest_makereport", None) for plugin in plugins]
    assert any(getattr(hook, "__module__", "") == "support.skips" for hook in hooks)
    assert RUN.index(f"export {VARIABLE}=1") < RUN.index("\nmake test")


@pytest.mark.parametrize(("program", "package"), NEEDS.items())
def test_ci_installs_what_has_a_program_that_is_not_there(program: str, package: str) -> None:
    assert f"command -v {program} >/dev/null || packages+=({package})\n" in RUN


def test_no_test_asks_for_a_program_that_ci_does_not_install() -> None:
    # `prometheus` and `alertmanager` come with their tools, `epmd` and `rabbitmqctl` with RabbitMQ; Debian has more.
    companions = {"prometheus", "prometheus-alertmanager", "alertmanager", "epmd", "rabbitmqctl", "docker"}
    companions |= {"apt-get", "dpkg-deb"}
    asked = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"shutil\.which\(\"([\w-]+)\"", file.read_text(encoding="utf-8"))
    }
    assert {"mvn", "openssl", "prometheus"} <= asked
    assert asked - {*NEEDS} - companions == set()

"""The alerts of shipped configurations have tests, and these pass."""

import re
from pathlib import Path

import pytest

from support.examples import EXAMPLES
from support.pages import ROOT, blocks
from tocsin.cli import Exit, main
from tocsin.simulation.cases import read
from tocsin.simulation.reports import lines
from tocsin.simulation.running import configuration, run_file
from tocsin.simulation.scripts import Script

WITH_PACKAGE = EXAMPLES / "custom-channel"
"""Its types are in a package, which is installed in test_examples.py; the tests of its alert are run there."""
FILES = sorted(
    file
    for folder in ("examples", "demo", "exporter")
    for file in (ROOT / folder).rglob("*_test.yaml")
    if WITH_PACKAGE not in file.parents
)
CONFIGURATIONS = sorted(file for file in EXAMPLES.glob("*/tocsin.yaml") if file.parent != WITH_PACKAGE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_tests_of_shipped_alerts_pass(file: Path) -> None:
    results = list(run_file(file))
    assert results
    assert not [line for result in results if not result.passed for line in lines(result)]


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.parent.name)
def test_every_alert_of_an_example_has_a_test(file: Path) -> None:
    tests = read(file.with_name("tocsin_test.yaml"))
    config = configuration(tests)
    tested = {alert for n in range(len(tests.settings.tests)) for alert in Script(tests, n, config).alerts}
    assert tested == {*config.alerts}


def test_page_about_tests_shows_what_they_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    configuration_text, tests = blocks("testing.md", "yaml")
    passes, fails = blocks("testing.md", "text")
    Path("tocsin.yaml").write_text(configuration_text)
    for text, shown, status in (
        (tests, passes.partition("\n")[2], Exit.OK),
        (tests.replace("Order 17 is late}", "Order 17 is too late}"), fails, Exit.FAILED),
    ):
        Path("late_orders_test.yaml").write_text(text)
        assert main(["test", "late_orders_test.yaml"]) == status
        printed = re.sub(r"in [0-9.]+ s", "in 0.4 s", capsys.readouterr().out)
        assert printed.startswith(shown)

"""The alerts of shipped configurations have tests, and these pass."""

from pathlib import Path

import pytest

from support.examples import EXAMPLES
from support.pages import ROOT
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

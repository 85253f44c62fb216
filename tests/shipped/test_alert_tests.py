"""The alerts of shipped configurations have tests, and these pass."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from support.documented import Environment, written_to
from support.examples import EXAMPLES
from support.pages import DOCS, ROOT, blocks
from tocsin.cli import Exit, main
from tocsin.config import load
from tocsin.simulation.cases import read
from tocsin.simulation.reports import lines
from tocsin.simulation.running import configuration, run_case, run_file
from tocsin.simulation.scripts import Script

WITH_PACKAGE = EXAMPLES / "custom-channel"
"""Its types are in a package, which is installed in test_examples.py; the tests of its alert are run there."""
FILES = sorted(
    file
    for folder in ("examples", "demo", "exporter")
    for file in (ROOT / folder).rglob("*_test.yaml")
    if WITH_PACKAGE not in file.parents
)
DOCUMENTED: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("docs_alerts.yaml").read_text(encoding="utf-8"))
"""Page -> number of the block -> tests."""
PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted(DOCS.rglob("*.md"))
        if not page.name.startswith("migrate-") and page.name not in ("testing.md", "python-api.md")
    ),
]
"""Pages of migration have settings of other systems and other tests; `testing.md` has tests of its own."""
CONFIGURATIONS = sorted(
    [
        ROOT / "demo" / "tocsin_demo" / "tocsin.yaml",
        ROOT / "exporter" / "tocsin.example.yaml",
        *(file for file in EXAMPLES.glob("*/tocsin.yaml") if file.parent != WITH_PACKAGE),
    ]
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_tests_of_shipped_alerts_pass(file: Path) -> None:
    results = list(run_file(file))
    assert results
    assert not [line for result in results if not result.passed for line in lines(result)]


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.parent.name)
def test_every_alert_of_an_example_has_a_test(file: Path) -> None:
    tests = read(file.with_name(f"{file.stem}_test.yaml"))
    config = configuration(tests)
    tested = {alert for n in range(len(tests.settings.tests)) for alert in Script(tests, n, config).alerts}
    assert tested == {*config.alerts}


def test_page_about_tests_shows_what_they_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    configuration_text, tests, of_silences = blocks("testing.md", "yaml")
    passes, fails = blocks("testing.md", "text")
    Path("tocsin.yaml").write_text(configuration_text)
    for text, shown, status in (
        (tests, passes.partition("\n")[2], Exit.OK),
        (tests.partition("- name:")[0] + of_silences, "late_orders_test.yaml\n  passed  During", Exit.OK),
        (tests.replace("Order 17 is late}", "Order 17 is too late}"), fails, Exit.FAILED),
    ):
        Path("late_orders_test.yaml").write_text(text)
        assert main(["test", "late_orders_test.yaml"]) == status
        printed = re.sub(r"in [0-9.]+ s", "in 0.4 s", capsys.readouterr().out)
        assert printed.startswith(shown)


def with_alerts(page: Path) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(blocks(page, "ya?ml")):
        if re.search(r"^alerts:", text, re.MULTILINE):
            yield number, text


@pytest.mark.parametrize(
    ("text", "tests"),
    [
        pytest.param(text, DOCUMENTED.get(name, {}).get(number, []), id=f"{name}-{number}")
        for page in PAGES
        for name in [str(page.relative_to(ROOT))]
        for number, text in with_alerts(page)
    ],
)
def test_alerts_on_pages_do_what_they_say(
    text: str, tests: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tests, "write tests of these alerts into tests/shipped/docs_alerts.yaml"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pager", ModuleType("pager"))  # to be put back, as other tests have one, too
    del sys.modules["pager"]
    (tmp_path / "pager.py").write_text("def page(envelope, *, room, token):\n    pass\n")
    config = load(written_to(tmp_path, text), Environment())
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump({"config": "tocsin.yaml", "tests": tests}, allow_unicode=True))
    read_tests = read(file)
    results = [run_case(read_tests, number, config) for number in range(len(tests))]
    assert not [line for result in results for line in lines(result)]
    assert {alert for n in range(len(tests)) for alert in Script(read_tests, n, config).alerts} == {*config.alerts}

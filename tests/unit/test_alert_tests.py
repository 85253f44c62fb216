"""`tocsin test`: tests of alerts. What fails is in `golden/alert_tests.txt`, for the files in `alert_tests`."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest
import yaml

from support.waiting import until
from tocsin.cli import Exit, main
from tocsin.config.document import parse
from tocsin.simulation.cases import schema
from tocsin.simulation.comparing import compared_series, same_number, series, values
from tocsin.simulation.engine import Simulation
from tocsin.simulation.tables import TableError, Types, parsed

FOLDER = Path(__file__).parent / "alert_tests"
GOLDEN = Path(__file__).parent / "golden" / "alert_tests.txt"
PASSES = """\
config: tocsin.yaml
environment: {WEBHOOK_URL: "https://example.com/hook"}
tests:
- name: A late order is sent
  timeline:
  - at: 0s
    insert: {late_orders: [{order_id: 17, customer: Ann, minutes: 15}]}
    exp_notifications: {team: [{kind: fired}]}
- name: Two late orders are sent
  timeline:
  - at: 0s
    insert: {late_orders: [{order_id: 17, customer: Ann, minutes: 15}, {order_id: 18, customer: Bob, minutes: 20}]}
    exp_notifications: {team: [{labels: {customer: Bob}}, {labels: {customer: Ann}}]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "passes_test.yaml").write_text(PASSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEBHOOK_URL", raising=False)
    return tmp_path


def test_each_failure_names_place_expected_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["wrong_test.yaml", "mistakes_test.yaml", "order_test.yaml", "names_test.yaml", "braces_test.yaml"]
    assert main(["test", *files]) == Exit.FAILED
    shown = re.sub(r"\b[0-9a-f]{32}\b", "<id>", re.sub(r"in [0-9.]+ s", "in 0 s", capsys.readouterr().out))
    if os.environ.get("TOCSIN_WRITE_GOLDEN"):
        GOLDEN.write_text(shown, encoding="utf-8")
    assert shown == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("tests:", "tolerance: -1\ntests:", "tolerance\n        must be at least 0"),
        ("tests:", "tolerance: .nan\ntests:", "tolerance\n        must be a finite number"),
        ("- at: 0s", "- at: 0s\n    receivers: {team: [0]}", "0 is not a status of HTTP"),
        ("- at: 0s", "- at: 0s\n    receivers: {team: {status: 600}}", "600 is not a status of HTTP"),
    ],
)
def test_impossible_number_is_named(
    before: str, after: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "passes_test.yaml").write_text(PASSES.replace(before, after, 1))
    assert main(["test", "passes_test.yaml"]) == Exit.FAILED
    assert expected in capsys.readouterr().out


def test_each_part_of_a_timeline_has_its_effect(capsys: pytest.CaptureFixture[str]) -> None:
    """The file has timers, restarts, gaps, outages, answers, merging and an Alertmanager."""
    assert main(["test", "all_test.yaml"]) == Exit.OK, capsys.readouterr().out


def test_silence_of_an_alertmanager_is_refused(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    step = """{at: 0s, silences: {m: {matchers: 'id="1"', for: 1h}}, insert: {record: [{id: 1}]}, exp_none: all}"""
    (folder / "pager_test.yaml").write_text(f"config: all.yaml\ntests: [{{name: a, timeline: [{step}]}}]\n")
    assert main(["test", "pager_test.yaml"]) == Exit.FAILED
    assert "no channel of this test is silenced: Alertmanager has silences of its own" in capsys.readouterr().out


def test_what_runs_no_test_fails(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "empty_test.yaml").touch()
    (folder / "none_test.yaml").write_text("config: tocsin.yaml\ntests: []\n")
    (folder / "unset_test.yaml").write_text(PASSES.replace("environment", "x-environment").replace("x-env", "#env"))
    (folder / "promtool_test.yaml").write_text("rule_files: [rules.yml]\ntests:\n- interval: 1m\n")
    (folder / "elsewhere_test.yaml").write_text(PASSES.replace("tocsin.yaml", "nosuch.yaml"))
    for arguments in (
        "nosuch_test.yaml",
        "empty_test.yaml",
        "none_test.yaml",
        "unset_test.yaml",
        ".",
        "passes_test.yaml -k nosuch",
        "tocsin.yaml",
        "promtool_test.yaml",
        "elsewhere_test.yaml",
        "passes_test.yaml --junit nosuch/report.xml",
    ):
        assert main(["test", *arguments.split()]) == Exit.FAILED
    shown, complaint = capsys.readouterr()
    assert shown.count("FAILED") == 8
    assert "is a folder; name the files in it, as in *_test.yaml" in shown
    assert "this is a file for promtool" in shown
    assert "elsewhere_test.yaml:1: config\n        nosuch.yaml: cannot read the file" in shown
    assert "this is a configuration; name a file of tests, which has `config: tocsin.yaml` and `tests`" in shown
    assert "set it, for this test under `environment`" in shown
    assert complaint.splitlines() == [
        "no test has 'nosuch' in its name",
        "tocsin: nosuch/report.xml: the report cannot be written: no such file or directory",
    ]


def test_many_differences_are_shown_in_part(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    rows = [{"order_id": number, "customer": "Ann", "minutes": 1} for number in range(30)]
    step = {"at": "0s", "insert": {"late_orders": rows}, "exp_none": "team", "exp_series": {"late_orders": "none"}}
    written = {"config": "tocsin.yaml", "environment": {"WEBHOOK_URL": "https://x.example"}}
    tests = [{"name": "many", "timeline": [step]}]
    (folder / "many_test.yaml").write_text(yaml.safe_dump(written | {"tests": tests}))
    assert main(["test", "many_test.yaml"]) == Exit.FAILED
    shown = capsys.readouterr().out
    assert (shown.count("and 10 more"), shown.count("not expected: ")) == (2, 20)


def test_a_defect_fails_its_test_and_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(_: object) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(Simulation, "begin", begin)
    assert main(["test", str(Path("passes_test.yaml").resolve())]) == Exit.FAILED
    shown = capsys.readouterr().out
    assert "a defect of Tocsin: unexpected ZeroDivisionError in " in shown
    assert "1 passed, 1 failed in" in shown


def test_filter_selects_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "passes_test.yaml", "-k", "two LATE"]) == Exit.OK
    assert "1 passed in" in capsys.readouterr().out


def test_junit_has_suites_cases_and_failures(folder: Path) -> None:
    main(["test", "passes_test.yaml", "wrong_test.yaml", "order_test.yaml", "--junit", "report.xml"])
    root = ET.parse(folder / "report.xml").getroot()
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("errors")) for suite in root] == [
        ("passes_test.yaml", "2", "0", "0"),
        ("wrong_test.yaml", "8", "8", "0"),
        ("order_test.yaml", "1", "0", "1"),
    ]
    failure = root.find("testsuite/testcase[@name='Values, labels and texts']/failure")
    assert failure is not None
    assert "expected  16" in str(failure.text)
    error = root.find("testsuite/testcase/error")
    assert error is not None
    assert str(error.get("message")).endswith("tests[0].timeline[1].at: 30s is before the step above, which is at 1m")


def test_junit_is_xml_whatever_names_hold(folder: Path) -> None:
    text = PASSES.replace("A late order is sent", r'"<\0\x1b\uFFFE]]>"')
    (folder / "odd\udcff_test.yaml").write_text(text)
    main(["test", "odd\udcff_test.yaml", "--junit", "report.xml"])
    names = [case.get("name") for case in ET.parse(folder / "report.xml").getroot().iter("testcase")]
    assert names == ["<\ufffd\ufffd\ufffd]]>", "Two late orders are sent"]


def test_schema_takes_tests_and_refuses_mistakes() -> None:
    def written(name: str) -> object:
        return parse(Path(f"{name}_test.yaml").read_text(), name, {}).data

    validator = jsonschema.Draft202012Validator(schema())
    for name in ("passes", "wrong", "names", "all"):
        validator.validate(written(name))
    found = [error.json_path for error in validator.iter_errors(written("mistakes"))]
    assert {"$", "$.tests[0].timeline[1].at", "$.tests[0].timeline[2]", "$.tests[3].timeline"} <= {*found}


def test_secret_files_and_variables_are_replaced(folder: Path) -> None:
    configuration = (folder / "tocsin.yaml").read_text()
    (folder / "tocsin.yaml").write_text(configuration.replace('url: "${WEBHOOK_URL}"', "url_file: /run/secrets/hook"))
    with_file = PASSES.replace("environment", 'secret_files: {/run/secrets/hook: "https://x.example"}\nenvironment')
    (folder / "passes_test.yaml").write_text(with_file)
    assert main(["test", "passes_test.yaml"]) == Exit.OK


async def test_watch_runs_again_after_a_change(folder: Path) -> None:
    """Of the tests, the configuration and an included file, also of one that was wrong."""
    command = [sys.executable, "-m", "tocsin", "test", "passes_test.yaml", "--watch"]
    alert = "again: {source: warehouse, relation: late_orders, labels: [order_id], notify: [mail]}"
    changes = (
        ("more.yaml", alert.replace("labels", "lables"), "0 passed, 1 failed"),
        ("more.yaml", alert, "2 passed"),
        ("passes_test.yaml", PASSES + "    exp_none: [team]\n", "0 passed, 1 failed"),
        ("passes_test.yaml", PASSES, "2 passed"),
        ("tocsin.yaml", (folder / "tocsin.yaml").read_text(), "2 passed"),
    )

    def runs() -> int:
        return (folder / "out").read_text().count("waiting for a change")

    (folder / "more.yaml").write_text(alert)
    (folder / "tocsin.yaml").write_text(changes[-1][1] + "alert_files: [more.yaml]\n")
    with (folder / "out").open("w") as out, subprocess.Popen(command, stdout=out) as watching:  # noqa: ASYNC220
        try:
            await until(lambda: runs() == 1)
            for name, text, outcome in changes:
                before = runs()
                (folder / name).write_text(text)
                await until(lambda: runs() > before)  # noqa: B023 - it is waited for
                assert (folder / "out").read_text().splitlines()[-2].startswith(outcome)
        finally:
            watching.terminate()


# Tables and series.


def test_tables_of_psql_and_markdown_are_read() -> None:
    psql = " id | name  | note \n----+-------+------\n  1 | Ann   | \n  2 | 'a|b' | NULL\n(2 rows)\n"
    markdown = "| id | name | note |\n| --- | :-: | --- |\n| 1 | Ann | |\n| 2 | 'a|b' | NULL |"
    for text in (psql, markdown):
        names, rows = parsed(text)
        assert names == ["id", "name", "note"]
        assert rows == [{"id": "1", "name": "Ann", "note": None}, {"id": "2", "name": "a|b", "note": None}]


@pytest.mark.parametrize(
    ("values", "type_", "texts"),
    [
        (["1", "2"], "int8", ["1", "2"]),
        (["1", "2.50"], "numeric", ["1", "2.50"]),
        ([1, 2.5], "numeric", ["1", "2.5"]),
        (["1", "x"], "text", ["1", "x"]),
        (["true", "f", None], "bool", ["t", "f", None]),
        ([True], "bool", ["t"]),
        (["2026-01-01T00:00:00Z"], "timestamptz", ["2026-01-01 00:00:00+00"]),
        (["2026-01-01 00:00"], "timestamp", ["2026-01-01 00:00"]),
        (["2026-01-01"], "date", ["2026-01-01"]),
        ([{"a": [1]}], "jsonb", ['{"a": [1]}']),
        ([float("nan")], "numeric", ["NaN"]),
        ([None], "text", [None]),
    ],
)
def test_types_are_found_in_values(values: list[object], type_: str, texts: list[str | None]) -> None:
    from psycopg.postgres import types

    found = Types([], [{"c": value} for value in values], {})  # type: ignore[dict-item]
    assert [column.oid for column in found.columns] == [types[type_].oid]
    assert [found.texts({"c": value})["c"] for value in values] == texts  # type: ignore[dict-item]


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(TableError, match="there is no type 'whole'"):
        Types([], [], {"c": "whole"})


def test_series_are_equal_whatever_the_order_of_labels() -> None:
    assert series('m{b="x\\"y", a="1",}') == series('m{a="1",b="x\\"y"}')
    assert str(series('m{b="x\\"y", a="1"}')) == 'm{a="1", b="x\\"y"}'
    assert values('# HELP m x\nm{a="1 2"} NaN\n') == {series('m{a="1 2"}'): pytest.approx(float("nan"), nan_ok=True)}


def test_nan_equals_nan_and_tolerance_is_a_number() -> None:
    page = values('m{a="1"} NaN\nm{a="2"} 1.004\nother 3\n')
    expected: dict[str, float | str] = {'m{a="1"}': "NaN", 'm{a="2"}': 1}
    assert compared_series(expected, page, 0.01) == []
    assert [one.what for one in compared_series(expected, page, 0.001)] == ['m{a="2"}']
    assert compared_series({"third": "none"}, page, 0) == []
    assert not same_number(float("nan"), 1, 10)

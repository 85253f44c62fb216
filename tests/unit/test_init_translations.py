"""What of other tools' configurations is translated, and what is named because it is not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.pages import blocks
from tocsin.cli import main
from tocsin.config.loading import load_text
from tocsin.errors import TocsinError
from tocsin.init import from_query_exporter, from_sql_exporter, parameters, schedule
from tocsin.init.translation import Notes

QUERY_EXPORTER: dict[str, Any] = {
    "databases": {"db": {"dsn": "postgresql+psycopg2://app:sesame@db.example.com/shop?sslmode=require&keepalives=1"}},
    "metrics": {"m": {"type": "gauge", "labels": ["a"]}},
    "queries": {"q": {"databases": ["db"], "metrics": ["m"], "interval": 30, "sql": "SELECT a, m FROM t"}},
}
JUSTWATCH: dict[str, Any] = {
    "jobs": [
        {
            "name": "j",
            "interval": "1m30s",
            "connections": ["postgres://app:{{ db_pass }}@db:5433/shop"],
            "queries": [
                {"name": "a.b", "help": "A", "labels": ["l"], "values": ["x", "y"], "query": "SELECT l, x, y FROM t"}
            ],
        }
    ]
}
BURNING: dict[str, Any] = {
    "target": {"data_source_name": "postgres://app:$PASS@db/shop", "collectors": ["c"]},
    "collectors": [
        {
            "collector_name": "c",
            "metrics": [
                {
                    "metric_name": "m",
                    "type": "gauge",
                    "help": "M",
                    "key_labels": ["a"],
                    "values": ["v"],
                    "query": "SELECT a, v FROM t",
                }
            ],
        }
    ],
}


def merged(base: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with one value set: `queries.q.timeout`."""
    copy: dict[str, Any] = yaml.safe_load(yaml.safe_dump(base))
    *parents, last = path.split(".")
    at: Any = copy
    for name in parents:
        at = at[int(name)] if isinstance(at, list) else at[name]
    at[int(last) if isinstance(at, list) else last] = value
    return copy


def translated(tmp_path: Path, data: object, *, by: Any = from_query_exporter) -> tuple[dict[str, Any], Notes]:
    file = tmp_path / "theirs.yaml"
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    text, notes = by.translated(str(file))
    return yaml.safe_load(text) if text else {}, notes


@pytest.mark.parametrize("content", ["", "collectors: []", "alerts: {}"])
def test_file_of_another_kind_is_refused_at_once(content: str, tmp_path: Path) -> None:
    """Without a list of what it would have lost."""
    (tmp_path / "other.yml").write_text(content)
    with pytest.raises(TocsinError, match=r"other\.yml: has neither `target` nor `jobs`"):
        from_sql_exporter.translated(str(tmp_path / "other.yml"))


def test_database_of_query_exporter_becomes_a_source(tmp_path: Path) -> None:
    made, notes = translated(tmp_path, QUERY_EXPORTER)
    assert made["sources"]["db"] == {
        "type": "postgres",
        "host": "db.example.com",
        "port": 5432,
        "user": "app",
        "password": "${DB_PASSWORD}",
        "database": "shop",
        "sslmode": "require",
        "interval": "30s",
        "progress_timeout": "1m30s",
        "stale_after": "5m",
    }
    assert any("set the variable DB_PASSWORD" in one for one in notes.lost)
    assert any("the parameter keepalives" in one for one in notes.lost)
    assert "sesame" not in str(made) + str(notes)


LOST: dict[str, tuple[str, object, str]] = {
    "mysql": ("databases.db.dsn", "mysql://u@h/d", "the database db: it is mysql, not PostgreSQL"),
    "histogram": ("metrics.m.type", "histogram", "the histogram m"),
    "enum": ("metrics.m.type", "enum", "the enum m"),
    "increment": ("metrics.m", {"type": "counter", "increment": True, "labels": ["a"]}, "the counter m with increment"),
    "schedule": (
        "queries.q",
        {**QUERY_EXPORTER["queries"]["q"], "interval": None, "schedule": "0 7 * * *"},
        "'0 7 * * *' of the query q: it is read every 1d",
    ),
    "key": ("queries.q.retries", 3, "queries.q.retries"),
    "metric": ("queries.q.metrics", ["m", "n"], "the metric n of the query q"),
    "session": ("databases.db.connect-sql", ["SELECT setup()"], "of the database db: SELECT setup()"),
}


@pytest.mark.parametrize("case", LOST)
def test_what_is_not_translated_is_named(case: str, tmp_path: Path) -> None:
    path, value, note = LOST[case]
    _, notes = translated(tmp_path, merged(QUERY_EXPORTER, path, value))
    assert any(note in one for one in notes.lost), notes.lost


def test_query_of_which_nothing_is_kept_has_no_other_notes(tmp_path: Path) -> None:
    """It ran at each scrape, which is of no interest here. The page has a note on rows with the same labels."""
    file = merged(QUERY_EXPORTER, "metrics.m.type", "histogram")
    del file["queries"]["q"]["interval"]
    _, notes = translated(tmp_path, file)
    assert not [one for one in notes.different if "the query q" in one]
    assert [one for one in notes.different if "same labels" in one and "there the last" in one]


def test_weekdays_of_query_exporter_count_from_monday(tmp_path: Path) -> None:
    query = {**QUERY_EXPORTER["queries"]["q"], "schedule": "0 7 * * 1-5"}
    del query["interval"]
    made, notes = translated(tmp_path, merged(QUERY_EXPORTER, "queries.q", query))
    assert any("runs it on TUE-SAT; up to 4.x, and in cron, it is MON-FRI" in one for one in notes.different)
    assert made["sources"]["db"]["interval"] == "1d"
    load_text(yaml.safe_dump(made), "made", {"DB_PASSWORD": "x"})


def test_variables_files_and_includes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump(QUERY_EXPORTER["queries"]))
    text = """
        databases:
          db:
            dsn: {dialect: postgresql, host: db, user: app, password: !file db.password, options: {sslmode: require}}
          whole: {dsn: !env WHOLE}
        metrics: {m: {type: gauge, labels: [a]}}
        queries: !include queries.yaml
    """
    made, _ = translated(tmp_path, text)
    assert made["sources"]["db"]["password_file"].endswith("db.password")
    assert made["sources"]["db"]["sslmode"] == "require"


def test_queries_of_one_metric_are_told_apart(tmp_path: Path) -> None:
    second = {**QUERY_EXPORTER["queries"]["q"], "sql": "SELECT a, m FROM u"}
    made, notes = translated(tmp_path, merged(QUERY_EXPORTER, "queries.r", second))
    assert [one["static_labels"]["query"] for one in made["alerts"].values()] == ["q", "r"]
    assert any("here they have the label `query`" in one for one in notes.different)
    load_text(yaml.safe_dump(made), "made", {"DB_PASSWORD": "x"})


def test_parameters_become_values_of_one_query() -> None:
    combined = parameters.sets({"of": [{"a": 1}, {"a": 2}], "to": [{"b": "it's"}]})
    assert combined == [{"of__a": 1, "to__b": "it's"}, {"of__a": 2, "to__b": "it's"}]
    assert parameters.query("SELECT ':a' || x::text, :a, '\\:' FROM t WHERE b = :b", [{"a": None, "b": True}]) == (
        "SELECT ':a' || x::text, NULL, '\\:' FROM t WHERE b = true"
    )
    assert parameters.query("SELECT :to__b AS b;", combined).count("SELECT 'it''s' AS b\n") == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("*/5 * * * *", 300), ("* * * * *", 60), ("7 * * * *", 3600), ("0 */6 * * *", 21600), ("0 7 * * MON", 86400)],
)
def test_interval_nearest_to_a_schedule(text: str, seconds: float) -> None:
    assert schedule.nearest_interval(text) == seconds
    assert schedule.weekdays("0 7 * * 0,6", monday=1) == "SUN,SAT"


def test_justwatch_has_its_labels_and_an_alert_for_each_value(tmp_path: Path) -> None:
    made, _ = translated(tmp_path, JUSTWATCH, by=from_sql_exporter)
    source = made["sources"]["j"]
    assert (source["password"], source["port"], source["interval"]) == ("${DB_PASS}", 5433, "1m30s")
    assert [(name, one["value"], one["static_labels"]) for name, one in made["alerts"].items()] == [
        (
            name,
            value,
            {"sql_job": "j", "driver": "postgres", "host": "db:5433", "database": "shop", "user": "app", "col": value},
        )
        for name, value in (("sql_ab", "x"), ("sql_ab_2", "y"))
    ]
    load_text(yaml.safe_dump(made), "made", {"DB_PASS": "x"})


BURNING_LOST: dict[str, tuple[str, object, str]] = {
    "timestamp": ("collectors.0.metrics.0.timestamp_value", "at", "timestamp_value of m"),
    "query": (
        "collectors.0.metrics.0",
        {"metric_name": "m", "type": "gauge", "values": ["v"], "query_ref": "nosuch"},
        "the metric m: its query 'nosuch' is not in the collector",
    ),
    "target": ("target.data_source_name", "sqlserver://u:p@h", "it is sqlserver, not PostgreSQL"),
    "collector": ("target.collectors", ["c", "d"], "the collector d of database"),
    "files": ("collector_files", ["nosuch*.yml"], "collector_files nosuch*.yml: no file matches"),
}


@pytest.mark.parametrize("case", BURNING_LOST)
def test_what_is_not_translated_of_sql_exporter_is_named(case: str, tmp_path: Path) -> None:
    path, value, note = BURNING_LOST[case]
    _, notes = translated(tmp_path, merged(BURNING, path, value), by=from_sql_exporter)
    assert any(note in one for one in notes.lost), notes.lost


def test_named_target_is_a_label(tmp_path: Path) -> None:
    made, _ = translated(tmp_path, merged(BURNING, "target.name", "warehouse"), by=from_sql_exporter)
    assert made["alerts"]["m"]["static_labels"] == {"target": "warehouse"}


def test_counter_keeps_no_end_that_gauges_must_not_have(tmp_path: Path) -> None:
    data = merged(BURNING, "collectors.0.metrics.0.metric_name", "orders_count")
    made, notes = translated(tmp_path, data, by=from_sql_exporter)
    assert list(made["alerts"]) == ["orders_count_now"]
    assert made["sources"]["database"]["password"] == "${PASS}"
    assert any("the metric orders_count is orders_count_now here" in one for one in notes.different)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("databases: {db: {}}", "databases.db.dsn: Field required"),
        ("databases: [", "theirs.yaml:"),
        ("", "databases: Field required"),
        ("- a", "the file: Input should be a mapping"),
        ("metrics: {a: 5}", "metrics.a: Input should be a mapping"),
        ("queries: {q: {parameters: 5}}", "queries.q.parameters: Input should be a list of mappings, or a mapping of"),
        ("queries: {q: {parameters: {p: [1]}}}", "queries.q.parameters: Input should be a list of mappings"),
        ("!unknown x", "theirs.yaml:1"),
        ("databases: !include nosuch.yaml", "cannot read"),
    ],
)
def test_file_that_is_no_configuration_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(TocsinError, match=reason):
        translated(tmp_path, text)


def test_command_prints_what_differs_and_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(yaml.safe_dump(QUERY_EXPORTER))
    command = ["init", "--from-query-exporter", "theirs.yaml", "-o", "tocsin.yaml"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "not translated: the password of app@db.example.com" in printed.err
    assert "different: a series ends with its row" in printed.err
    assert "#   - a series ends with its row" in Path("tocsin.yaml").read_text()
    assert main(command) == 0  # the same again
    Path("tocsin.yaml").write_text("mine")
    assert main(command) == 1
    assert "tocsin.yaml exists" in capsys.readouterr().err
    assert Path("tocsin.yaml").read_text() == "mine"


PAGES = {"migrate-from-query-exporter.md": from_query_exporter, "migrate-from-sql-exporter.md": from_sql_exporter}


@pytest.mark.parametrize("page", PAGES)
def test_example_on_a_page_is_translated_as_shown(page: str, tmp_path: Path) -> None:
    theirs, ours = blocks(page, "yaml")
    made, _ = translated(tmp_path, theirs, by=PAGES[page])
    assert made == yaml.safe_load(ours)
    variables = {"SHOP": "postgresql://app@db/shop", "DB_PASSWORD": "x"}
    assert load_text(ours, page, variables).warnings == ()

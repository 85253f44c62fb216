"""How the settings of a source become a connection, and the variables of materialize-novu a configuration."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from support.pages import ROOT, blocks
from tocsin.cli import main
from tocsin.config import Config, load
from tocsin.config.environment import OPTIONAL, REQUIRED, from_environment, is_configured
from tocsin.errors import ConfigError, Problem
from tocsin.sources.base import Subject
from tocsin.sources.settings import Connection, MaterializeConfig, PostgresConfig


def parameters(settings: Connection) -> dict[str, Any]:
    return conninfo_to_dict(settings.conninfo())


def test_every_part_reaches_libpq() -> None:
    settings = MaterializeConfig.model_validate(
        {"host": "h", "user": "u", "password": "p", "sslmode": "verify-full", "sslrootcert": "system", "cluster": "c"}
    )
    assert parameters(settings) == {
        "host": "h",
        "port": "6875",
        "user": "u",
        "password": "p",
        "dbname": "materialize",
        "sslmode": "verify-full",
        "sslrootcert": "system",
        "options": "--cluster=c",
        "application_name": "tocsin",
        "client_encoding": "UTF8",
        "connect_timeout": "10",
        "keepalives_idle": "15",
        "keepalives_interval": "5",
        "keepalives_count": "3",
    }


_hostile = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(password=_hostile, user=_hostile, host=_hostile, database=_hostile)
def test_values_cannot_break_out_of_their_place(password: str, user: str, host: str, database: str) -> None:
    settings = PostgresConfig.model_validate({"host": host, "user": user, "password": password, "database": database})
    found = parameters(settings)
    assert (found["password"], found["user"], found["host"], found["dbname"]) == (password, user, host, database)


def test_startup_packet_has_no_settings_of_postgres() -> None:
    """A pooler refuses them there."""
    settings = PostgresConfig.model_validate(
        {"host": "h", "user": "u", "statement_timeout": "1500ms", "options": {"search_path": "a, b"}}
    )
    assert "options" not in parameters(settings)
    [statement] = settings.configured()
    assert "set_config('statement_timeout', '1500ms', false)" in statement.as_string(None)
    assert "set_config('search_path', 'a, b', false)" in statement.as_string(None)


def test_dsn_is_completed_with_defaults_and_overridden() -> None:
    """By the other settings; the encoding is always UTF-8, and time limits are rounded up for libpq."""
    dsn = "postgresql://u:p@h/d?sslmode=disable&connect_timeout=3&options=-c%20a%3Db&client_encoding=LATIN1"
    settings = MaterializeConfig.model_validate({"dsn": dsn, "cluster": "c", "keepalives_idle": "1ms"})
    found = parameters(settings)
    assert (found["port"], found["dbname"], found["sslmode"], found["connect_timeout"]) == ("6875", "d", "disable", "3")
    assert (found["options"], found["client_encoding"]) == ("-c a=b --cluster=c", "UTF8")
    assert (found["keepalives_count"], found["keepalives_idle"], found["keepalives_interval"]) == ("3", "1", "1")
    own = {"sslmode": "require", "password": "q", "connect_timeout": "100ms"}
    found = parameters(PostgresConfig.model_validate({"dsn": "host=h user=u sslmode=disable", **own}))
    assert (found["sslmode"], found["password"], found["connect_timeout"]) == ("require", "q", "2")


@pytest.mark.parametrize(
    ("data", "display"),
    [
        ({"host": "h", "user": "u", "password": "p"}, "u@h:5432/postgres"),
        ({"host": "::1", "user": "u", "port": 1}, "u@[::1]:1/postgres"),
        ({"dsn": "postgresql://u:p@[::1]:7/d"}, "u@[::1]:7/d"),
        ({"dsn": "host=/run/pg password=p"}, "/run/pg:5432/postgres"),
    ],
)
def test_server_name_has_no_secrets(data: dict[str, Any], display: str) -> None:
    settings = PostgresConfig.model_validate(data)
    assert settings.display == display
    assert ":p@" not in f"{settings} {settings!r}"


def test_invalid_dsn_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        PostgresConfig.model_validate({"dsn": "hunter2 is no dsn"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


# The variables of the script materialize-novu as a configuration document.


PAGE = ROOT / "docs" / "from-the-environment.md"
NEEDED = {
    "NOVU_API_KEY": "hunter2-key",
    "NOVU_WORKFLOW_NAME": "expensive",
    "NOVU_RECIPIENTS": "a, b",
    "MTZ_USER": "tocsin",
    "MTZ_PASSWORD": "hunter2-pw",
    "MTZ_HOST": "mz.example",
    "MTZ_ALERT_VIEW": "materialize.auction.expensive_pizza",
    "MTZ_PERSIST_TABLE": "alert_time",
    "MTZ_ALERT_PAYLOAD": "item,amount",
}


def environ(**changes: str | None) -> dict[str, str]:
    return {name: value for name, value in {**NEEDED, **changes}.items() if value is not None}


def config(**changes: str | None) -> Config:
    return from_environment(environ(**changes))[1]


def codes(found: Iterable[Problem]) -> list[tuple[str, str]]:
    return [(problem.path, problem.code) for problem in found]


def problems(**changes: str | None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    return list(caught.value.problems)


def test_required_variables_are_enough() -> None:
    made = config()
    source, channel = made.sources["materialize"].settings, made.channels["novu"].settings
    assert source.display == "tocsin@mz.example:6875/materialize"
    assert (source.cluster, source.sslmode, source.progress_timeout, source.on_stall) == (
        *("quickstart", "require"),
        *(600.0, "exit"),
    )
    assert source.password.get_secret_value() == "hunter2-pw"
    assert (channel.workflow, channel.url, channel.timeout) == ("expensive", "https://api.novu.co", 5.0)
    assert (channel.api_key.get_secret_value(), channel.on_resolve) == ("hunter2-key", "nothing")
    assert is_configured(NEEDED)
    assert not is_configured({"MTZ_HOST": " ", "LOG_LEVEL": "INFO", "HOME": "/"})
    assert (made.ledger.path, made.log.level, made.log.output) == ("alert_time.db", "warning", "stdout")
    [alert] = made.row_alerts.values()
    assert alert.subject == Subject(query='SELECT "item", "amount" FROM "materialize"."auction"."expensive_pizza"')
    assert (alert.name, alert.key, alert.initial, alert.gauges) == ("expensive_pizza", (), "silent", False)
    assert made.channels["novu"].routes["expensive_pizza"].payload == ["item", "amount"]
    assert not made.dry_run
    assert not made.warnings


def test_document_loads_and_holds_no_secret(tmp_path: Path) -> None:
    text, made = from_environment(environ(MTZ_ALERT_PAYLOAD='item,"${x}"'))
    (tmp_path / "tocsin.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "tocsin.yaml", NEEDED) == made
    assert "${NOVU_API_KEY}" in text
    assert "hunter2" not in text + repr(made) + str(made.redacted())


def test_init_prints_the_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in environ(RETAIN_HISTORY="60").items():
        monkeypatch.setenv(name, value)
    assert main(["init", "--from-env"]) == 0
    printed = capsys.readouterr()
    assert printed.out == from_environment(environ())[0]
    assert "RETAIN_HISTORY" in printed.err


def test_init_prints_the_first_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """That of README.md; `tocsin check` accepts it."""
    assert main(["init"]) == 0
    text = capsys.readouterr().out
    assert text == blocks(ROOT / "README.md", "yaml")[0]
    (tmp_path / "tocsin.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBHOOK_URL", "https://example.com/hook")
    monkeypatch.delenv("TOCSIN_CONFIG", raising=False)
    assert main(["check"]) == 0


def test_every_missing_or_unusable_variable_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment({"MTZ_HOST": "  "})
    assert not [name for name in (*REQUIRED, "NOVU_RECIPIENTS") if name not in str(caught.value)]
    wrong = {"MTZ_PORT": "abc", "NOVU_URL": "nowhere", "LOG_LEVEL": "loud", "SEND_RETRACTIONS": "perhaps"}
    wrong |= {"PROGRESS_TIMEOUT_MINUTES": "-1", "MTZ_ALERT_PAYLOAD": "sum(a)", "MTZ_ALERT_VIEW": "v; DROP TABLE v"}
    found = str(problems(**wrong, NOVU_API_KEY="hunter2\nkey"))
    assert not [name for name in wrong if name not in found]
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("changes", "recipients"),
    [
        ({"NOVU_RECIPIENTS": " a, b ,,a"}, ["a", "b"]),
        ({"NOVU_RECIPIENTS": None, "RECIPIENTS_IN_PAYLOAD": "item"}, ["column:item"]),
        ({"NOVU_RECIPIENTS": "a", "RECIPIENTS_IN_PAYLOAD": " amount "}, ["a", "column:amount"]),
        ({"NOVU_RECIPIENTS": "a", "RECIPIENTS_IN_PAYLOAD": "False"}, ["a"]),
        ({"MTZ_ALERT_PAYLOAD": "item,no", "RECIPIENTS_IN_PAYLOAD": "no"}, ["a", "b", "column:no"]),
    ],
)
def test_recipients_come_from_list_and_column(changes: dict[str, str], recipients: list[str]) -> None:
    found = config(**changes).channels["novu"].settings.recipients
    assert [entry if isinstance(entry, str) else f"column:{entry.column}" for entry in found] == recipients


def test_false_as_recipient_column_means_not_set() -> None:
    assert codes(config(RECIPIENTS_IN_PAYLOAD="False").warnings) == [("RECIPIENTS_IN_PAYLOAD", "column_not_set")]
    found = problems(RECIPIENTS_IN_PAYLOAD="False", NOVU_RECIPIENTS=" , ")
    assert codes(found) == [("NOVU_RECIPIENTS", "no_recipients")]
    assert codes(problems(RECIPIENTS_IN_PAYLOAD="True")) == [("RECIPIENTS_IN_PAYLOAD", "not_in_payload")]


@pytest.mark.parametrize(
    ("payload", "query", "keys"),
    [
        ("item, amount ,item", 'SELECT "item", "amount" FROM "v"', ["item", "amount"]),
        ("Item", 'SELECT "item" AS "Item" FROM "v"', ["Item"]),
        ('"Item, ""sold""",amount', 'SELECT "Item, ""sold""", "amount" FROM "v"', ['Item, "sold"', "amount"]),
    ],
)
def test_payload_columns_are_quoted_as_names(payload: str, query: str, keys: list[str]) -> None:
    made = config(MTZ_ALERT_PAYLOAD=payload, MTZ_ALERT_VIEW="v")
    assert made.alerts["v"].subject.query == query
    assert made.channels["novu"].settings.payload == keys


def test_optional_variables_reach_their_settings() -> None:
    made = config(
        NOVU_URL="http://127.0.0.1:3000",
        NOVU_PYTHON_REQUESTS_TIMEOUT="2.5",
        MTZ_CLUSTER="c",
        MTZ_DATABASE="d",
        MTZ_PORT="6876",
        MTZ_SSLMODE=" disable ",
        MTZ_PERSIST_TABLE='public."alert/times"',
        LOG_LEVEL="CRITICAL",
        LOG_OUTPUT="tocsin.log",
        TEST_MODE="true",
        TOCSIN_LISTEN="0.0.0.0:8627",
        SEND_RETRACTIONS="True",
        PROGRESS_TIMEOUT_MINUTES="1.5",
        RETAIN_HISTORY="60",
    )
    source, channel = made.sources["materialize"].settings, made.channels["novu"].settings
    assert (channel.url, channel.timeout, channel.on_resolve) == ("http://127.0.0.1:3000", 2.5, "cancel")
    assert (source.cluster, source.database, source.port, source.sslmode) == ("c", "d", 6876, "disable")
    assert source.progress_timeout == 90.0
    assert (made.log.level, made.log.output) == ("error", "tocsin.log")
    assert made.ledger.path == "public._alert_times_.db"
    assert made.web.listen == "0.0.0.0:8627"
    assert made.dry_run
    assert codes(made.warnings) == [("RETAIN_HISTORY", "no_history")]


def test_page_explains_exactly_the_variables_that_are_read() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted([*REQUIRED, *OPTIONAL])

"""How the settings of a source become a connection."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from tocsin.postgres import OUTPUT
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


def test_session_settings_are_escaped_configured_ones_last() -> None:
    settings = MaterializeConfig.model_validate(
        {"host": "h", "user": "u", "isolation": "strict serializable", "options": {"search_path": "a b\\c"}}
    )
    assert parameters(settings)["options"] == r"--transaction_isolation=strict\ serializable --search_path=a\ b\\c"


def test_startup_packet_has_no_settings_of_postgres() -> None:
    """A pooler refuses them there."""
    settings = PostgresConfig.model_validate(
        {"host": "h", "user": "u", "statement_timeout": "1500ms", "options": {"search_path": "a, b"}}
    )
    assert "options" not in parameters(settings)
    [statement] = settings.configured()
    assert "set_config('statement_timeout', '1500ms', false)" in statement.as_string(None)
    assert "set_config('search_path', 'a, b', false)" in statement.as_string(None)


@pytest.mark.parametrize(
    "given",
    [
        {"host": "h", "user": "u", "options": {"timezone": "Europe/Berlin"}},
        {"dsn": "host=h user=u options='-c timezone=Europe/Berlin'"},
        {"dsn": "host=h user=u options=--timezone=Europe/Berlin"},
    ],
)
def test_configured_setting_overrides_its_default(given: dict[str, Any]) -> None:
    """The others stay as they are."""
    asked = PostgresConfig.model_validate(given).asked_output()
    assert asked == {name: value for name, value in OUTPUT.items() if name != "TimeZone"}


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


@pytest.mark.parametrize("settings", [MaterializeConfig, PostgresConfig])
def test_defaults_of_sources_are_consistent(settings: type[Connection]) -> None:
    made = settings.model_validate({"host": "h", "user": "u"})
    assert made.stale_after > made.progress_timeout > made.connect_timeout

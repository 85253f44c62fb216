"""How the settings of a source become a connection, and the variables of materialize-novu a configuration."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from support.config import in_effect
from support.pages import ROOT, blocks
from tocsin.cli import main
from tocsin.config import load
from tocsin.config.environment import OPTIONAL, REQUIRED, from_environment, is_configured
from tocsin.errors import ConfigError
from tocsin.sources.settings import Connection, MaterializeConfig, PostgresConfig

CASES = yaml.safe_load((Path(__file__).parent / "golden" / "effective.yaml").read_text(encoding="utf-8"))


def parameters(settings: Connection) -> dict[str, Any]:
    return conninfo_to_dict(settings.conninfo())


@pytest.mark.parametrize("case", CASES["connections"], ids=lambda case: case["what"])
def test_settings_reach_libpq(case: dict[str, Any]) -> None:
    kind = MaterializeConfig if "materialize" in case else PostgresConfig
    settings = kind.model_validate(case.get("materialize") or case["postgres"])
    found = parameters(settings)
    assert {name: found.get(name) for name in case.get("parameters", {})} == case.get("parameters", {})
    assert settings.display == case.get("display", settings.display)
    assert ":p@" not in f"{settings} {settings!r}"


_hostile = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(password=_hostile, user=_hostile, host=_hostile, database=_hostile)
def test_values_cannot_break_out_of_their_place(password: str, user: str, host: str, database: str) -> None:
    settings = PostgresConfig.model_validate({"host": host, "user": user, "password": password, "database": database})
    found = parameters(settings)
    assert (found["password"], found["user"], found["host"], found["dbname"]) == (password, user, host, database)


def test_settings_of_postgres_are_set_in_each_transaction() -> None:
    settings = PostgresConfig.model_validate(
        {"host": "h", "user": "u", "statement_timeout": "1500ms", "options": {"search_path": "a, b"}}
    )
    assert settings.configured() == []
    made = settings.begin().as_string(None)
    assert """; SET LOCAL "statement_timeout" TO '1500ms'; """ in made
    assert "; SELECT pg_catalog.set_config('search_path', 'a, b', true)" in made  # `SET` would make one name of it


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


@pytest.mark.parametrize("case", CASES["variables"], ids=lambda case: case["what"])
def test_variables_reach_their_settings(case: dict[str, Any]) -> None:
    """Or are a warning or a problem."""
    given = environ(**case.get("variables", {}))
    if "problems" in case:
        with pytest.raises(ConfigError) as caught:
            from_environment(given)
        assert {one.path: one.code for one in caught.value.problems} == case["problems"]
        return
    made = from_environment(given)[1]
    assert {path: in_effect(made, path) for path in case["effective"]} == case["effective"]
    assert {one.path: one.code for one in made.warnings} == case.get("warnings", {})


def test_secrets_and_test_mode_are_read() -> None:
    assert is_configured(NEEDED)
    assert not is_configured({"MTZ_HOST": " ", "LOG_LEVEL": "INFO", "HOME": "/"})
    made = from_environment(environ(TEST_MODE="true"))[1]
    assert made.sources["materialize"].settings.password.get_secret_value() == "hunter2-pw"
    assert made.channels["novu"].settings.api_key.get_secret_value() == "hunter2-key"
    assert (made.dry_run, from_environment(NEEDED)[1].dry_run) == (True, False)


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
    with pytest.raises(ConfigError) as caught:
        from_environment(environ(**wrong, NOVU_API_KEY="hunter2\nkey"))
    found = str(caught.value)
    assert not [name for name in wrong if name not in found]
    assert "hunter2" not in found


def test_page_explains_exactly_the_variables_that_are_read() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted([*REQUIRED, *OPTIONAL])

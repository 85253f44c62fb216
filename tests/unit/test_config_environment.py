"""The variables of the script materialize-novu as a configuration."""
# ruff: noqa: E501, ISC004 - a case of a table is one line, whatever it says

import re
from pathlib import Path

import pytest

from tocsin.config import Config
from tocsin.config.environment import ADDED, OPTIONAL, REQUIRED, from_environment, speaks
from tocsin.errors import ConfigError
from tocsin.sources.base import Subject

PAGE = Path(__file__).parents[2] / "docs" / "from-the-environment.md"
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


def config(**changes: str | None) -> Config:
    return from_environment(environ(**changes))


def environ(**changes: str | None) -> dict[str, str]:
    return {name: value for name, value in {**NEEDED, **changes}.items() if value is not None}


def problems(**changes: str | None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    return [str(problem) for problem in caught.value.problems]


def warnings(**changes: str | None) -> list[str]:
    return [str(warning) for warning in config(**changes).warnings]


def test_the_required_variables_are_enough() -> None:
    made = config()
    source, channel = made.sources["materialize"].settings, made.channels["novu"].settings
    assert source.display == "tocsin@mz.example:6875/materialize"
    assert (source.cluster, source.sslmode, source.password.get_secret_value()) == (
        "quickstart",
        "require",
        "hunter2-pw",
    )
    assert (channel.workflow, channel.url, channel.timeout) == ("expensive", "https://api.novu.co", 5.0)
    assert channel.api_key.get_secret_value() == "hunter2-key"
    assert (made.ledger.path, made.log.level, made.log.output) == ("alert_time.db", "warning", "stdout")
    assert not made.dry_run
    assert not made.warnings


def test_the_view_becomes_an_alert_that_notifies_and_has_no_gauges() -> None:
    (alert,) = config().row_alerts.values()
    query = 'SELECT "item", "amount" FROM "materialize"."auction"."expensive_pizza"'
    assert alert.subject == Subject(query=query)
    assert (alert.name, alert.key, alert.initial, alert.gauges) == ("expensive_pizza", (), "silent", False)
    assert config().routes("novu")["expensive_pizza"].payload == ["item", "amount"]


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment({"MTZ_HOST": "  "})
    named = [problem.path for problem in caught.value.problems]
    assert sorted(named) == sorted([*REQUIRED, "NOVU_RECIPIENTS"])


def test_every_variable_that_cannot_be_used_is_named_at_once() -> None:
    assert problems(
        MTZ_PORT="abc", NOVU_URL="nowhere", LOG_LEVEL="loud", SEND_RETRACTIONS="perhaps", PROGRESS_TIMEOUT_MINUTES="-1"
    ) == [
        "environment: PROGRESS_TIMEOUT_MINUTES: must be a number above 0",
        "environment: SEND_RETRACTIONS: must be True or False",
        "environment: LOG_LEVEL: must be debug, info, warning or error, not 'loud'",
        "environment: MTZ_PORT: must be a whole number, not text",
        "environment: NOVU_URL: write the address of the API alone, such as https://api.novu.co",
    ]


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
def test_recipients_come_from_the_list_and_from_the_column(changes: dict[str, str], recipients: list[str]) -> None:
    found = config(**changes).channels["novu"].settings.recipients
    assert [entry if isinstance(entry, str) else f"column:{entry.column}" for entry in found] == recipients


def test_false_as_the_column_of_recipients_means_not_set_and_is_warned_of() -> None:
    assert warnings(RECIPIENTS_IN_PAYLOAD="False") == [
        "environment: RECIPIENTS_IN_PAYLOAD: is the name of a column, so False is taken as not set"
    ]
    assert problems(RECIPIENTS_IN_PAYLOAD="False", NOVU_RECIPIENTS=" , ") == [
        "environment: NOVU_RECIPIENTS: is required, or RECIPIENTS_IN_PAYLOAD: else nobody would be notified"
    ]


def test_a_column_of_recipients_must_be_in_the_payload() -> None:
    assert problems(RECIPIENTS_IN_PAYLOAD="True") == [
        "environment: RECIPIENTS_IN_PAYLOAD: must be a column that MTZ_ALERT_PAYLOAD lists, not 'True'"
    ]


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


def test_what_is_no_name_is_refused_instead_of_run() -> None:
    assert problems(MTZ_ALERT_PAYLOAD="coalesce(a,b)", MTZ_ALERT_VIEW="v; DROP TABLE v") == [
        "environment: MTZ_ALERT_PAYLOAD: 'coalesce(a' is no column name; expressions belong into the view",
        "environment: MTZ_ALERT_PAYLOAD: 'b)' is no column name; expressions belong into the view",
        "environment: MTZ_ALERT_VIEW: 'v; DROP TABLE v' is not a relation name; write schema.name, with double quotes where "
        'needed: "My View"',
    ]


def test_retractions_cancel_if_they_are_wanted_and_send_nothing_otherwise() -> None:
    assert config().channels["novu"].settings.on_resolve == "nothing"
    assert config(SEND_RETRACTIONS="False").channels["novu"].settings.on_resolve == "nothing"
    assert config(SEND_RETRACTIONS="True").channels["novu"].settings.on_resolve == "cancel"


def test_a_stall_ends_the_process_after_the_given_minutes() -> None:
    source = config(PROGRESS_TIMEOUT_MINUTES="1.5").sources["materialize"].settings
    assert (source.progress_timeout, source.on_stall) == (90.0, "exit")
    assert config().sources["materialize"].settings.progress_timeout == 600.0


def test_the_other_optional_variables_reach_what_they_mean() -> None:
    made = config(
        NOVU_URL="http://127.0.0.1:3000",
        NOVU_PYTHON_REQUESTS_TIMEOUT="2.5",
        MTZ_CLUSTER="c",
        MTZ_DATABASE="d",
        MTZ_PORT="6876",
        MTZ_SSLMODE="disable",
        MTZ_PERSIST_TABLE='public."alert/times"',
        LOG_LEVEL="CRITICAL",
        LOG_OUTPUT="tocsin.log",
        TEST_MODE="true",
        TOCSIN_LISTEN="0.0.0.0:8627",
    )
    source, channel = made.sources["materialize"].settings, made.channels["novu"].settings
    assert (channel.url, channel.timeout) == ("http://127.0.0.1:3000", 2.5)
    assert (source.cluster, source.database, source.port, source.sslmode) == ("c", "d", 6876, "disable")
    assert (made.log.level, made.log.output) == ("error", "tocsin.log")
    assert made.ledger.path == "public._alert_times_.db"
    assert made.web.listen == "0.0.0.0:8627"
    assert made.dry_run


def test_retain_history_is_accepted_with_a_word_on_why_it_is_not_needed() -> None:
    assert warnings(RETAIN_HISTORY="60") == [
        "environment: RETAIN_HISTORY: has no effect: the server is asked how far its history reaches back"
    ]


def test_secrets_show_neither_in_the_configuration_nor_in_what_is_wrong() -> None:
    assert "hunter2" not in f"{config()!r}{config().redacted()}"
    assert "hunter2" not in "".join(problems(MTZ_PORT="x", NOVU_API_KEY="hunter2\nkey"))


def test_the_environment_speaks_when_a_variable_of_the_script_is_set() -> None:
    assert speaks({"MTZ_HOST": "h"})
    assert not speaks({"MTZ_HOST": " ", "LOG_LEVEL": "INFO", "HOME": "/"})


def test_the_page_explains_exactly_the_variables_that_are_read() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted([*REQUIRED, *OPTIONAL, *ADDED])

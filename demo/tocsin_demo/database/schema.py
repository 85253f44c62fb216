"""The demo's tables, rules, views and triggers: the numbered files in `sql/`, each of which may run again."""

from datetime import timedelta
from importlib import resources

import psycopg


def apply(conninfo: str, *, deployment_window: timedelta | None = None, bid_window: timedelta | None = None) -> None:
    """Create what the files describe, in one transaction. Existing rows stay, also changed rules.

    Args:
        deployment_window: how far back `dim_deployments` looks; None leaves it (two minutes at first).
        bid_window: how long a winning bid stays in `active_alerts`; None leaves it (five minutes at first).
    """
    with psycopg.connect(conninfo) as connection:
        files = [file for file in resources.files(__package__).joinpath("sql").iterdir() if file.name.endswith(".sql")]
        for file in sorted(files, key=lambda file: file.name):
            connection.execute(file.read_bytes())
        for name, span in (("deployment_window", deployment_window), ("bid_window", bid_window)):
            if span is not None:
                connection.execute("UPDATE demo.settings SET span = %s WHERE name = %s", (span, name))

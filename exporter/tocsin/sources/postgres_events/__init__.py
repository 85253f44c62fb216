"""PostgreSQL: the rows of a table as events, read when a NOTIFY comes and taken by one of several processes.

The table is the queue and NOTIFY only a hint, so nothing is lost while nobody listens. What is still to do stands in
the database (`statements.py`), not in a position: a transaction that commits late brings ids smaller than those already
handled, and "everything after the last id" would never see them.
"""

from tocsin.sources.postgres_events.ddl import existing_table, new_table
from tocsin.sources.postgres_events.settings import Config
from tocsin.sources.postgres_events.stream import PostgresEvents

__all__ = ["Config", "PostgresEvents", "build", "existing_table", "new_table"]


def build(name: str, config: Config) -> PostgresEvents:
    """A source for `config`; connects to nothing yet."""
    return PostgresEvents(name, config)

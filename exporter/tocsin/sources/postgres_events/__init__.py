"""PostgreSQL: the rows of a table as events, read on NOTIFY and shared by several processes.

The table is the queue and NOTIFY only a hint, so nothing is lost while no process listens. The database stores what is
pending (`statements.py`), not a position: a transaction that commits late inserts ids smaller than those already
handled, and "everything after the last id" would never find them.
"""

from tocsin.sources.postgres_events.ddl import existing_table, new_table
from tocsin.sources.postgres_events.settings import Config
from tocsin.sources.postgres_events.stream import PostgresEvents

__all__ = ["Config", "PostgresEvents", "build", "existing_table", "new_table"]


def build(name: str, config: Config) -> PostgresEvents:
    """Build the source; connects to nothing yet."""
    return PostgresEvents(name, config)

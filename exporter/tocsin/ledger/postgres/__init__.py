"""The ledger in PostgreSQL. Reading order: `schema`, `transaction`, `writer`, `append`, `outbox`, `records`,
`instances`, `membership`, `ledger`, `opening`, `tables`."""

from tocsin.ledger.postgres.connection import LedgerServer
from tocsin.ledger.postgres.ledger import PostgresLedger
from tocsin.ledger.postgres.opening import ddl, listed, open_ledger, update, verify, waits_for
from tocsin.ledger.postgres.tables import open_tables

__all__ = [
    "LedgerServer",
    "PostgresLedger",
    "ddl",
    "listed",
    "open_ledger",
    "open_tables",
    "update",
    "verify",
    "waits_for",
]

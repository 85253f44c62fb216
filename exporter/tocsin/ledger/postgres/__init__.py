"""The ledger in PostgreSQL. Reading order: `schema`, `leases`, `writer`, `append`, `outbox`, `records`, `ledger`."""

from tocsin.ledger.postgres.connection import LedgerServer
from tocsin.ledger.postgres.ledger import PostgresLedger, ddl, open_ledger, verify
from tocsin.ledger.postgres.tables import open_tables

__all__ = ["LedgerServer", "PostgresLedger", "ddl", "open_ledger", "open_tables", "verify"]

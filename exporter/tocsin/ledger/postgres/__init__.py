"""The ledger in PostgreSQL. Reading order: `schema`, `leases`, `transaction`, `writer`, `append`, `outbox`,
`records`, `ledger`, `opening`, `tables`."""

from tocsin.ledger.postgres.connection import LedgerServer
from tocsin.ledger.postgres.ledger import PostgresLedger
from tocsin.ledger.postgres.opening import ddl, open_ledger, verify
from tocsin.ledger.postgres.tables import open_tables

__all__ = ["LedgerServer", "PostgresLedger", "ddl", "open_ledger", "open_tables", "verify"]

"""The demo's database: an embedded PostgreSQL, its schema, and the producer's sink for it."""

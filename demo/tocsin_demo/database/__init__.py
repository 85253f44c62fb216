"""The demo's database: an embedded PostgreSQL, its schema, and the way of the producer's events into it."""

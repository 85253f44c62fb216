\ir variables.psql
-- As mz_system on port 6877: allow RETAIN HISTORY, with which Tocsin resumes after an outage exactly where it stopped.
-- Without it, Tocsin takes a new snapshot after an outage and reports the gap. Everything else works.

ALTER SYSTEM SET enable_logical_compaction_window = true;

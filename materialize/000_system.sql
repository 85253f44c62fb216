\ir variables.psql
-- As mz_system on port 6877. Allows RETAIN HISTORY, with which Tocsin resumes after an outage exactly where it stopped.
-- Where nobody may set this, everything else works: Tocsin then takes a fresh snapshot, and says that there was a gap.

ALTER SYSTEM SET enable_logical_compaction_window = true;

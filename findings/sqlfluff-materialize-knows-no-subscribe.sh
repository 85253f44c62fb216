#!/usr/bin/env bash
# sqlfluff 4.5.0, dialect "materialize"
#
# Behaviour: the dialect parses CREATE SOURCE, CREATE SINK, CREATE CLUSTER, DECLARE c CURSOR FOR SUBSCRIBE and
# COPY (SUBSCRIBE v) TO STDOUT, but not the bare SUBSCRIBE v. WITH (RETAIN HISTORY ...), WITH MUTUALLY RECURSIVE,
# ALTER SCHEMA ... SWAP WITH and the group size OPTIONS are unparsable too.
#
# Why it matters: one such statement makes lint exit with 1 and fix leave the whole file as it is, so the files of a
# Materialize project that keep history are the ones that cannot be linted.
#
# Guess: a dialect of the database's own name knows the statement that the database is known for.
#
# Seen:
#   parsed      CREATE SINK s IN CLUSTER c FROM v INTO KAFKA CONNECTION k (TOPIC 'x') KEY (id) FORMAT JSON ENVELOPE UPSERT;
#   parsed      CREATE MATERIALIZED VIEW v IN CLUSTER c AS SELECT id FROM t;
#   parsed      DECLARE c CURSOR FOR SUBSCRIBE v;
#   parsed      COPY (SUBSCRIBE v) TO STDOUT;
#   unparsable  SUBSCRIBE v;
#   unparsable  CREATE MATERIALIZED VIEW v IN CLUSTER c WITH (RETAIN HISTORY FOR '1 hour') AS SELECT id FROM t;
#   unparsable  WITH MUTUALLY RECURSIVE r (a int) AS (SELECT 1) SELECT a FROM r;
#   unparsable  ALTER SCHEMA a SWAP WITH b;
#   unparsable  SELECT a FROM t GROUP BY a OPTIONS (AGGREGATE INPUT GROUP SIZE = 1000);
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sqlfluff==4.5.0
"$folder/venv/bin/python" - <<'PY'
import sys

from sqlfluff.core import Linter

parsed = [
    "CREATE SINK s IN CLUSTER c FROM v INTO KAFKA CONNECTION k (TOPIC 'x') KEY (id) FORMAT JSON ENVELOPE UPSERT;",
    "CREATE MATERIALIZED VIEW v IN CLUSTER c AS SELECT id FROM t;",
    "DECLARE c CURSOR FOR SUBSCRIBE v;",
    "COPY (SUBSCRIBE v) TO STDOUT;",
]
unparsable = [
    "SUBSCRIBE v;",
    "CREATE MATERIALIZED VIEW v IN CLUSTER c WITH (RETAIN HISTORY FOR '1 hour') AS SELECT id FROM t;",
    "WITH MUTUALLY RECURSIVE r (a int) AS (SELECT 1) SELECT a FROM r;",
    "ALTER SCHEMA a SWAP WITH b;",
    "SELECT a FROM t GROUP BY a OPTIONS (AGGREGATE INPUT GROUP SIZE = 1000);",
]
linter = Linter(dialect="materialize")
same = True
for statement in parsed + unparsable:
    result = linter.parse_string(statement + "\n")
    bad = bool(result.violations) or result.tree is None or "unparsable" in result.tree.type_set()
    print(f"{'unparsable' if bad else 'parsed':<11} {statement}")
    same &= bad == (statement in unparsable)
sys.exit(not same)
PY

#!/usr/bin/env bash
# sqlglot 30.30.0, dialect "materialize"
#
# Behaviour: CREATE MATERIALIZED VIEW ... AS SELECT is parsed, and the tables that it reads can be listed. With IN CLUSTER,
# which Materialize's own SHOW CREATE always prints, the same statement becomes an opaque Command: parse_one succeeds, with a
# line on the log, and no table is found in it.
#
# Why it matters: lineage, impact and "which alert reads this table" tools built on it report that such views depend on
# nothing, which looks like a view over constants.
#
# Guess: both statements list v and t, since the dialect is called materialize.
#
# Seen:
#   without a cluster: Create  ['v', 't']
#   IN CLUSTER:        Command []
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sqlglot==30.30.0
"$folder/venv/bin/python" - <<'PY'
import logging
import sys

import sqlglot
from sqlglot import exp

logging.disable(logging.WARNING)
found = []
for what, words in (("without a cluster:", ""), ("IN CLUSTER:", "IN CLUSTER c ")):
    tree = sqlglot.parse_one(f"CREATE MATERIALIZED VIEW v {words}AS SELECT * FROM t", dialect="materialize")
    tables = [table.name for table in tree.find_all(exp.Table)]
    print(f"{what:<18} {type(tree).__name__:<7} {tables}")
    found.append((type(tree).__name__, tables))
sys.exit(found != [("Create", ["v", "t"]), ("Command", [])])
PY

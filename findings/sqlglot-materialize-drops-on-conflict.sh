#!/usr/bin/env bash
# sqlglot 30.30.0, dialect "materialize"
#
# Behaviour: writing SQL for Materialize drops ON CONFLICT (DO NOTHING and DO UPDATE), PRIMARY KEY and UNIQUE without an
# error or a warning, also with unsupported_level=RAISE, whose purpose is to raise where something cannot be expressed, and
# also where the statement was read in the same dialect. SERIAL becomes a plain integer that nothing fills.
#
# Why it matters: an upsert that is carried over to Materialize becomes a plain INSERT, and a table loses the key that kept
# its rows apart. The result runs; the rows are doubled.
#
# Guess: an error with RAISE, or the clause is kept and Materialize refuses it.
#
# Seen:
#   postgres    INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING -> INSERT INTO t VALUES (1)
#   postgres    INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1 -> INSERT INTO t VALUES (1)
#   postgres    CREATE TABLE t (id SERIAL PRIMARY KEY, a INT UNIQUE) -> CREATE TABLE t (id INT NOT NULL, a INT)
#   materialize INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING -> INSERT INTO t VALUES (1)
#   materialize INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1 -> INSERT INTO t VALUES (1)
#   materialize CREATE TABLE t (id SERIAL PRIMARY KEY, a INT UNIQUE) -> CREATE TABLE t (id INT NOT NULL, a INT)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sqlglot==30.30.0
"$folder/venv/bin/python" - <<'PY'
import sys

import sqlglot

expected = {
    "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING": "INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1": "INSERT INTO t VALUES (1)",
    "CREATE TABLE t (id SERIAL PRIMARY KEY, a INT UNIQUE)": "CREATE TABLE t (id INT NOT NULL, a INT)",
}
same = True
for read in ("postgres", "materialize"):
    for statement, written in expected.items():
        try:
            [found] = sqlglot.transpile(
                statement, read=read, write="materialize", unsupported_level=sqlglot.ErrorLevel.RAISE
            )
        except sqlglot.errors.SqlglotError as error:
            found = f"{type(error).__name__}: {error}"
        print(f"{read:<11} {statement} -> {found}")
        same &= found == written
sys.exit(not same)
PY

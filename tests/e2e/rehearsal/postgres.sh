#!/bin/sh
# Does what PostgreSQL's own image does at the start: a new cluster with the user and the database of the variables.
set -eu
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH" PGDATA=/var/lib/postgresql/data
run() { su postgres -c "$1"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  chown postgres /var/lib/postgresql
  run "initdb --username=$POSTGRES_USER --auth=$POSTGRES_HOST_AUTH_METHOD --no-sync >/dev/null"
  echo "host all all all $POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
  run "pg_ctl -w -o '-c listen_addresses=' start >/dev/null; createdb --username=$POSTGRES_USER $POSTGRES_DB; pg_ctl -w stop >/dev/null"
fi
exec su postgres -c "exec postgres -c 'listen_addresses=*'"

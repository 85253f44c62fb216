"""The examples and notes at the end of each command's help."""

MAIN = """\
examples:
  tocsin check --online        check the configuration, and that the columns it names exist
  tocsin test *_test.yaml      run unit tests of alerts
  tocsin run                   run it, with metrics and a status page on http://127.0.0.1:8627
  tocsin alerts                show what is firing now
  tocsin explain late_orders 17
                               say why a key fires or not, and what was sent of it
  tocsin outbox list --dead    list dead letters with their reasons
  tocsin history late_orders   show what fired, when, and which channels were notified
  tocsin silence add 'alertname="late_orders"' --for 2h --reason 'the warehouse moves'

exit status:
  0 success   1 failure, or `check` found problems   2 wrong usage or configuration   3 the ledger cannot be used
  4 the address cannot be bound   5 `doctor` found only warnings   130 interrupted
  124 a source with `on_stall: exit` stalled, or another process has taken over

Without --config, the file is $TOCSIN_CONFIG or ./tocsin.yaml. Without a file, the environment variables of the script
materialize-novu (MTZ_*, NOVU_*) are the configuration; `tocsin init --from-env` prints it as a file.
"""

RUN = """\
examples:
  tocsin run -c /etc/tocsin.yaml
  tocsin run --dry-run         print notifications, send and keep nothing
  tocsin run --workers 4       several processes, for several processors

SIGHUP reloads the configuration. SIGTERM and Ctrl-C stop it cleanly.

With --workers, the ledger must be in PostgreSQL. The first process listens on web.listen, the others on the ports after
it. A process that ends is started again.
"""

CHECK = """\
examples:
  tocsin check
  tocsin check --online        also ask the servers for the columns of views, for queues, topics and
                               tables of events, and for what channels need, such as workflows
  tocsin check --show          print the configuration in effect, secrets hidden
"""

DOCTOR = """\
examples:
  tocsin doctor
  tocsin doctor --downtime 1d          Tocsin may be down for a day and must not miss a row
  tocsin doctor --json

Run it where Tocsin runs: it measures this machine's disk and clock, asks the servers and the running process, and
changes nothing. It includes what `tocsin check --online` reports.

exit status:
  0 nothing found   1 at least one error   5 at least one warning and no error
  What could not be checked does not count.
"""

INIT = """\
examples:
  tocsin init                            ask for a server, a view and a channel, and write tocsin.yaml
  tocsin init --yes --dsn postgresql://tocsin@db/shop --relation late_orders -o tocsin.yaml
  tocsin init --yes --dsn postgresql://tocsin@db/shop --channel webhook --set url=https://example.com/hook
  tocsin init > tocsin.yaml              a first configuration without a server: one view, one webhook
  tocsin init --from-env > tocsin.yaml   the environment variables of the script materialize-novu
  tocsin init --from-query-exporter config.yaml -o tocsin.yaml
  tocsin init --from-sql-exporter sql_exporter.yml -o tocsin.yaml

The server is read, never written to. A password goes into a file of its own or is a variable. No file is overwritten
unless you agree.
"""

SCHEMA = """\
example:
  tocsin schema > tocsin.schema.json

For editors with a YAML language server, make this the first line of tocsin.yaml:
  # yaml-language-server: $schema=tocsin.schema.json

The schema of files of tests:
  tocsin schema --tests > tocsin-tests.schema.json
"""

TEST = """\
examples:
  tocsin test late_orders_test.yaml
  tocsin test tests/*.yaml -k slack        only tests with `slack` in their name
  tocsin test tests/*.yaml --junit report.xml
  tocsin test late_orders_test.yaml --watch

A test has rows that come and go, and the series and notifications that are expected then. The alerts run with the
real configuration, ledger and templates, in virtual time: `for: 1h` takes milliseconds. Nothing is sent.
"""

ALERTS = """\
examples:
  tocsin alerts
  tocsin alerts late_orders --json
  tocsin alerts --url https://tocsin.example.com:8627 --ca ca.pem --token-file token
"""

TAIL = """\
examples:
  tocsin tail
  tocsin tail --alert late_orders --json

Begins with the latest 200 transitions.
"""

EXPLAIN = """\
examples:
  tocsin explain late_orders 17             the value of the key column, as the source writes it
  tocsin explain late_orders 17 eu          of several key columns, in the order of `key`
  tocsin explain late_orders customer=Ann   by other columns, if one row has this value
  tocsin explain late_orders                the alert itself, and keys to ask about

A fingerprint is a key, too. Without a running Tocsin the ledger is read, and what cannot be known is said.
"""

RECORD = """\
examples:
  tocsin record                                       all alerts, until Ctrl-C
  tocsin record --alert late_orders -o night.jsonl.gz
  tocsin record --redact customer --redact email      hide what is in these columns

Reads from the running process, over HTTP: the sources notice nothing. A file that was cut off, as by a crash, can be
read to its last whole batch. `tocsin replay` runs alerts over it.
"""

REPLAY = """\
examples:
  tocsin replay night.jsonl.gz                        print what would be sent
  tocsin replay night.jsonl.gz --alert late_orders --json
  tocsin replay night.jsonl.gz --speed 10             ten times as fast as it happened
  tocsin replay night.jsonl.gz --send --speed max     send it to the channels, after a question

An alert takes what was recorded of its source and relation, so its other settings may have changed since. Nothing is
kept: the ledger is a temporary one.
"""

OUTBOX = """\
examples:
  tocsin outbox list --dead
  tocsin outbox show 3f9c0a7be8d14c55a1f0c2d4e6b8a901
  tocsin outbox retry --all --channel people
  tocsin outbox drop 3f9c0a7be8d14c55a1f0c2d4e6b8a901

Reads and changes the ledger, whether Tocsin runs or not.
"""

OUTBOX_LIST = """\
examples:
  tocsin outbox list --dead
  tocsin outbox list --pending --channel people

A dead letter is a notification that is not tried again. The last column has the reason.
"""

OUTBOX_SHOW = """\
example:
  tocsin outbox show 3f9c0a7be8d14c55a1f0c2d4e6b8a901

Shows the notification, all columns of its row, each attempt with its answer, the request with secrets hidden, and what
happens next.
"""

OUTBOX_RETRY = """\
examples:
  tocsin outbox retry 3f9c0a7be8d14c55a1f0c2d4e6b8a901
  tocsin outbox retry --all
  tocsin outbox retry --all --channel people --reason rejected

Dead letters are sent again, under the same ids. Fix their reason first.
"""

OUTBOX_DROP = """\
examples:
  tocsin outbox drop 3f9c0a7be8d14c55a1f0c2d4e6b8a901
  tocsin outbox drop --all
  tocsin outbox drop --all --channel people --alert late_orders

A dropped notification is not sent. With --all, only dead letters are dropped.
"""

SILENCE = """\
examples:
  tocsin silence preview 'alertname="late_orders", customer=~"A.*"'
  tocsin silence add 'alertname="late_orders"' --for 2h --reason 'the warehouse moves'
  tocsin silence list
  tocsin silence end 3f9c0a7be8d1

A silence holds back the notifications that match. Gauges, the status page and the outbox go on. What came and went
meanwhile is dropped at its end, the rest is sent then. Works on the ledger, whether Tocsin runs or not.
"""

SILENCE_ADD = """\
examples:
  tocsin silence add 'alertname="late_orders"' --for 2h --reason 'the warehouse moves'
  tocsin silence add '{customer!="Ann", severity=~"info|warning"}' --until 2026-12-01T22:00Z --reason audit
  tocsin silence add 'alertname=~".+"' --start 30m --for 1h --reason 'update of the database'

Labels are those of the alert and `alertname`. A running Tocsin applies it within a second, also to what is pending.
"""

SILENCE_LIST = """\
examples:
  tocsin silence list
  tocsin silence list --all

Those that have ended are kept for `ledger.history`.
"""

SILENCE_SHOW = """\
example:
  tocsin silence show 3f9c0a7be8d1
"""

SILENCE_END = """\
example:
  tocsin silence end 3f9c0a7be8d1

What came and went while it was held is dropped; the rest is sent, in order. A running Tocsin does so within a second.
"""

SILENCE_PREVIEW = """\
examples:
  tocsin silence preview 'alertname="late_orders", customer=~"A.*"'
  tocsin silence preview 'severity!="critical", alertname=~".+"' --json
"""

HISTORY = """\
examples:
  tocsin history late_orders
  tocsin history late_orders --limit 5 --json

Reads the ledger, whether Tocsin runs or not. It reaches back as far as the ledger keeps notifications
(ledger.history).
"""

SQL = """\
examples:
  tocsin sql                           everything that the configuration needs
  tocsin sql shop | psql               the events table of the source `shop`
  tocsin sql shop --existing           what an existing events table needs
  tocsin sql audit                     the table that the channel `audit` writes to
  tocsin sql ledger                    the schema of a ledger in PostgreSQL

Connects to nothing. Read the SQL, then run it as a user who may create tables.
"""

LEDGER = """\
examples:
  tocsin ledger copy tocsin.db tocsin.yaml       from the file to the ledger of the configuration
  tocsin ledger migrate tocsin.yaml              make its tables in PostgreSQL, or bring them up to date
"""

LEDGER_MIGRATE = """\
examples:
  tocsin ledger migrate tocsin.yaml
  tocsin ledger migrate postgresql://admin@db.example.com/alerts

`tocsin run` does the same; this is for updates with the role of an administrator. The tables belong to the owner of
the schema. While processes run alerts on older tables, it refuses and names them.
"""

LEDGER_COPY = """\
examples:
  tocsin ledger copy tocsin.db tocsin.yaml       from the file to the ledger of the configuration
  tocsin ledger copy postgresql://tocsin@db.example.com/alerts tocsin.db

Stop Tocsin first: neither ledger may be in use. A copy that was interrupted goes on when it is started again; until
it is complete, Tocsin refuses the target. Passwords go into a configuration file, or into ~/.pgpass.
"""

INSTANCES = """\
examples:
  tocsin instances
  tocsin instances --json

Reads the ledger, which must be in PostgreSQL. Each alert on rows has one process that leads it; alerts on events are
shared out by their source. A process that waits, as others run another configuration, is not listed.
"""

NOTIFY = """\
examples:
  tocsin notify shop order_late --data '{"order": 17}'
  tocsin notify shop order_late --key 17 --set customer=Ann

Inserts the event, sends NOTIFY and prints the id of the event, whether Tocsin runs or not.
"""

VERSION = """\
example:
  tocsin version --json
"""

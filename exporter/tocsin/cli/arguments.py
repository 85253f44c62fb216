"""The command line: every command, its options and its examples. Imports nothing heavy, so that `tocsin --help`
answers at once."""

import argparse
from typing import TypeAlias

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it

_MAIN = """\
examples:
  tocsin check --online        check the configuration, and that the columns it names exist
  tocsin run                   run it, with metrics and a status page on http://127.0.0.1:8627
  tocsin alerts                show what is firing now
  tocsin outbox list --dead    list dead letters with their reasons
  tocsin history late_orders   show what fired, when, and which channels were notified

exit status:
  0 success   1 failure, or `check` found problems   2 wrong usage or configuration   3 the ledger cannot be used
  4 the address cannot be bound   130 interrupted
  124 a source with `on_stall: exit` stalled, or another process has taken over

Without --config, the file is $TOCSIN_CONFIG or ./tocsin.yaml. Without a file, the environment variables of the script
materialize-novu (MTZ_*, NOVU_*) are the configuration; `tocsin init --from-env` prints it as a file.
"""

_RUN = """\
examples:
  tocsin run -c /etc/tocsin.yaml
  tocsin run --dry-run         print notifications, send and keep nothing
  tocsin run --workers 4       several processes, for several processors

SIGHUP reloads the configuration. SIGTERM and Ctrl-C stop it cleanly.

With --workers, the ledger must be in PostgreSQL. The first process listens on web.listen, the others on the ports after
it. A process that ends is started again.
"""

_CHECK = """\
examples:
  tocsin check
  tocsin check --online        also ask the servers for the columns of views, for queues, topics and
                               tables of events, and for what channels need, such as workflows
  tocsin check --show          print the configuration in effect, secrets hidden
"""

_INIT = """\
examples:
  tocsin init > tocsin.yaml              a first configuration: one view, one webhook
  tocsin init --from-env > tocsin.yaml   the environment variables of the script materialize-novu

With --from-env, the file refers to the variables. It holds no secret.
"""

_SCHEMA = """\
example:
  tocsin schema > tocsin.schema.json

For editors with a YAML language server, make this the first line of tocsin.yaml:
  # yaml-language-server: $schema=tocsin.schema.json
"""

_ALERTS = """\
examples:
  tocsin alerts
  tocsin alerts late_orders --json
  tocsin alerts --url https://tocsin.example.com:8627 --ca ca.pem --token-file token
"""

_TAIL = """\
examples:
  tocsin tail
  tocsin tail --alert late_orders --json

Begins with the latest 200 transitions.
"""

_OUTBOX = """\
examples:
  tocsin outbox list --dead
  tocsin outbox show 3f9c0a7be8d14c55a1f0c2d4e6b8a901
  tocsin outbox retry --all --channel people
  tocsin outbox drop 3f9c0a7be8d14c55a1f0c2d4e6b8a901

Reads and changes the ledger, whether Tocsin runs or not.
"""

_OUTBOX_LIST = """\
examples:
  tocsin outbox list --dead
  tocsin outbox list --pending --channel people

A dead letter is a notification that is not tried again. The last column has the reason.
"""

_OUTBOX_SHOW = """\
example:
  tocsin outbox show 3f9c0a7be8d14c55a1f0c2d4e6b8a901

Shows the notification, all columns of its row, and each failed attempt.
"""

_OUTBOX_RETRY = """\
examples:
  tocsin outbox retry 3f9c0a7be8d14c55a1f0c2d4e6b8a901
  tocsin outbox retry --all
  tocsin outbox retry --all --channel people

Dead letters are sent again, under the same ids. Fix their reason first.
"""

_OUTBOX_DROP = """\
examples:
  tocsin outbox drop 3f9c0a7be8d14c55a1f0c2d4e6b8a901
  tocsin outbox drop --all
  tocsin outbox drop --all --channel people

A dropped notification is not sent. With --all, only dead letters are dropped.
"""

_HISTORY = """\
examples:
  tocsin history late_orders
  tocsin history late_orders --limit 5 --json

Reads the ledger, whether Tocsin runs or not. It reaches back as far as the ledger keeps notifications
(ledger.history).
"""

_SQL = """\
examples:
  tocsin sql                           everything that the configuration needs
  tocsin sql shop | psql               the events table of the source `shop`
  tocsin sql shop --existing           what an existing events table needs
  tocsin sql audit                     the table that the channel `audit` writes to
  tocsin sql ledger                    the schema of a ledger in PostgreSQL

Connects to nothing. Read the SQL, then run it as a user who may create tables.
"""

_LEDGER = """\
examples:
  tocsin ledger copy tocsin.db tocsin.yaml       from the file to the ledger of the configuration
  tocsin ledger migrate tocsin.yaml              make its tables in PostgreSQL, or bring them up to date
"""

_LEDGER_MIGRATE = """\
examples:
  tocsin ledger migrate tocsin.yaml
  tocsin ledger migrate postgresql://admin@db.example.com/alerts

`tocsin run` does the same; this is for updates with the role of an administrator. The tables belong to the owner of
the schema. While processes run alerts on older tables, it refuses and names them.
"""

_LEDGER_COPY = """\
examples:
  tocsin ledger copy tocsin.db tocsin.yaml       from the file to the ledger of the configuration
  tocsin ledger copy postgresql://tocsin@db.example.com/alerts tocsin.db

Stop Tocsin first: neither ledger may be in use. A copy that was interrupted goes on when it is started again; until
it is complete, Tocsin refuses the target. Passwords go into a configuration file, or into ~/.pgpass.
"""

_INSTANCES = """\
examples:
  tocsin instances
  tocsin instances --json

Reads the ledger, which must be in PostgreSQL. Each alert on rows has one process that leads it; alerts on events are
shared out by their source. A process that waits, as others run another configuration, is not listed.
"""

_NOTIFY = """\
examples:
  tocsin notify shop order_late --data '{"order": 17}'
  tocsin notify shop order_late --key 17 --set customer=Ann

Inserts the event, sends NOTIFY and prints the id of the event, whether Tocsin runs or not.
"""

_VERSION = """\
example:
  tocsin version --json
"""


def arguments_parser() -> argparse.ArgumentParser:
    """Make the parser. The result names the module in `tocsin.cli` that runs the command (`module`)."""
    parser = argparse.ArgumentParser(
        prog="tocsin",
        description="Turns rows of live views into Prometheus gauges and notifications, without losing any.",
        epilog=_MAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _flag(parser, "--version", "print versions, as the command version does")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    run = _add(commands, "run", "run", "watch the views, serve metrics, deliver notifications", _RUN)
    _finish(run)
    group = run.add_mutually_exclusive_group()
    group.add_argument("--dry-run", action="store_true", help="print notifications, send nothing, keep no ledger")
    group.add_argument("--workers", type=_count, default=1, metavar="N", help="run N processes that share the ledger")
    # The number of one of them. Not `--worker`, which people would take for `--workers`.
    group.add_argument("--as-worker", dest="worker", type=_count, help=argparse.SUPPRESS)
    check = _add(commands, "check", "check", "check the configuration and report every problem at once", _CHECK)
    _finish(check)
    _flag(check, "--online", "also ask the servers, and try templates on a real row")
    _flag(check, "--show", "print the configuration with all defaults")
    _flag(check, "--json", "print problems as JSON")
    init = _add(commands, "init", "configuration", "print a configuration file", _INIT)
    _flag(init, "--from-env", "from the variables of the script materialize-novu")
    _add(commands, "schema", "check", "print the JSON Schema of the configuration file", _SCHEMA)
    _add_live(commands)
    _add_outbox(commands)
    _add_ledger(commands)
    instances = _add(commands, "instances", "instances", "show which processes share the ledger", _INSTANCES)
    _finish(instances, json="print JSON, one object a line")
    history = "show when an alert fired and which channels were notified"
    episodes = _add(commands, "history", "history", history, _HISTORY)
    episodes.add_argument("alert", help="the alert's name")
    _number(episodes, "how many to show at most, newest first (default: 50)")
    _finish(episodes, json="print JSON, one object a line")
    _add_postgres(commands)
    _flag(_add(commands, "version", "version", "print versions", _VERSION), "--json", "print JSON")
    return parser


def _add(commands: _Commands, name: str, module: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(module=module)
    return command


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("it must be a whole number from 1 on")
    return int(text)


def _flag(command: argparse.ArgumentParser, name: str, text: str) -> None:
    command.add_argument(name, action="store_true", help=text)


def _number(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--limit", type=int, default=50, help=text)


def _finish(command: argparse.ArgumentParser, json: str = "") -> None:
    """Add what most commands have: `--config`, and `--json` where it has this help."""
    text = "the configuration file, - for standard input (default: $TOCSIN_CONFIG, ./tocsin.yaml)"
    command.add_argument("-c", "--config", metavar="FILE", help=text)
    if json:
        _flag(command, "--json", json)


def _add_live(commands: _Commands) -> None:
    alerts = _add(commands, "alerts", "live", "show what is firing now", _ALERTS)
    alerts.add_argument("alert", nargs="?", help="only this alert")
    tail = _add(commands, "tail", "live", "follow alerts as they fire and resolve", _TAIL)
    tail.add_argument("--alert", help="only this alert")
    for command in (alerts, tail):
        where = "the address of the running Tocsin (default: web.listen of the configuration)"
        command.add_argument("--url", help=where)
        command.add_argument("--ca", metavar="FILE", help="with https: the CA of the server (default: the system's)")
        command.add_argument("--cert", metavar="FILE", help="with https: a client certificate")
        command.add_argument("--key", metavar="FILE", help="its key (default: in the same file)")
        command.add_argument("--user", help="a user of web.config_file; the password is $TOCSIN_PASSWORD, or asked for")
        command.add_argument("--token-file", metavar="FILE", help="a file with a token (default: $TOCSIN_TOKEN)")
        _finish(command, json="print JSON, one object a line")


def _add_outbox(commands: _Commands) -> None:
    outbox = _add(commands, "outbox", "outbox", "show, retry or drop notifications", _OUTBOX)
    actions = outbox.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _add(actions, "list", "outbox", "list notifications, newest first", _OUTBOX_LIST)
    group = listing.add_mutually_exclusive_group()
    for status in ("pending", "dead", "delivered", "dropped"):
        group.add_argument(f"--{status}", dest="status", action="store_const", const=status, help=f"only {status}")
    listing.add_argument("--channel", help="only this channel")
    listing.add_argument("--alert", help="only this alert")
    _number(listing, "how many to list at most (default: 50)")
    show = _add(actions, "show", "outbox", "show one notification with its row", _OUTBOX_SHOW)
    show.add_argument("id", help="the id of the notification, or how it begins")
    retry = _add(actions, "retry", "outbox", "make dead letters pending again", _OUTBOX_RETRY)
    drop = _add(actions, "drop", "outbox", "drop dead or pending notifications", _OUTBOX_DROP)
    for action in (retry, drop):
        action.add_argument("id", nargs="*", help="ids of notifications, or how they begin")
        _flag(action, "--all", "all dead letters")
        action.add_argument("--channel", help="with --all: only this channel")
    for action in (listing, show, retry, drop):
        _finish(action, json="print JSON")


def _add_ledger(commands: _Commands) -> None:
    ledger = _add(commands, "ledger", "ledger", "copy the ledger, or update its tables", _LEDGER)
    actions = ledger.add_subparsers(dest="action", metavar="ACTION", required=True)
    copy = _add(actions, "copy", "ledger", "copy a ledger, compare it, and leave the source as it is", _LEDGER_COPY)
    where = "a file, postgresql://user@host/database, or a configuration file (.yaml) whose ledger is meant"
    copy.add_argument("source", metavar="FROM", help=where)
    copy.add_argument("target", metavar="TO", help="the same; it must be new, or hold an unfinished copy of FROM")
    migrate = _add(actions, "migrate", "ledger", "make tables in PostgreSQL, or bring them up to date", _LEDGER_MIGRATE)
    migrate.add_argument("place", metavar="CONFIG", help="a configuration file (.yaml), or the address of its ledger")
    _flag(migrate, "--dry-run", "print the SQL, and change nothing")


def _add_postgres(commands: _Commands) -> None:
    sql = _add(commands, "sql", "sql", "print the SQL that PostgreSQL sources, channels and the ledger need", _SQL)
    sql.add_argument(
        "name", nargs="?", help="a source of type postgres_events, a channel of type postgres, or `ledger`"
    )
    _flag(sql, "--existing", "for an existing events table")
    _flag(sql, "--backlog", "for an existing events table whose rows become pending events")
    notify = _add(commands, "notify", "notify", "publish one event into an events table", _NOTIFY)
    notify.add_argument("source", help="a source of type postgres_events")
    notify.add_argument("name", help="the event's name, which alerts refer to")
    notify.add_argument("--data", metavar="JSON", help="an object for the column `data`")
    notify.add_argument("--key", help="the value of the source's key column")
    notify.add_argument("--set", metavar="COLUMN=TEXT", action="append", default=[], help="the value of another column")
    for command in (sql, notify):
        _finish(command)

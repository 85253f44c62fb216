"""The command line: every command and its options. Imports nothing heavy, so that `tocsin --help`
answers at once."""

import argparse
from typing import TypeAlias

from tocsin.cli import examples

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it


def arguments_parser() -> argparse.ArgumentParser:
    """Make the parser. The result names the module in `tocsin.cli` that runs the command (`module`)."""
    parser = argparse.ArgumentParser(
        prog="tocsin",
        description="Turns rows of live views into Prometheus gauges and notifications, without losing any.",
        epilog=examples.MAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _flag(parser, "--version", "print versions, as the command version does")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    run = _add(commands, "run", "run", "watch the views, serve metrics, deliver notifications", examples.RUN)
    _finish(run)
    group = run.add_mutually_exclusive_group()
    group.add_argument("--dry-run", action="store_true", help="print notifications, send nothing, keep no ledger")
    group.add_argument("--workers", type=_count, default=1, metavar="N", help="run N processes that share the ledger")
    # The number of one of them. Not `--worker`, which people would take for `--workers`.
    group.add_argument("--as-worker", dest="worker", type=_count, help=argparse.SUPPRESS)
    check = _add(commands, "check", "check", "check the configuration and report every problem at once", examples.CHECK)
    _finish(check)
    _flag(check, "--online", "also ask the servers, and try templates on a real row")
    _flag(check, "--show", "print the configuration with all defaults")
    _flag(check, "--json", "print problems as JSON")
    doctor = _add(
        commands, "doctor", "doctor", "find what will spoil a night: servers, disk, clocks, process", examples.DOCTOR
    )
    downtime = "how long Tocsin may be down without missing a row (default: 1h)"
    doctor.add_argument("--downtime", metavar="DURATION", default="1h", help=downtime)
    _login(doctor)
    _finish(doctor, json="print findings as JSON")
    _add_init(commands)
    schema = _add(commands, "schema", "check", "print the JSON Schema of the configuration file", examples.SCHEMA)
    _flag(schema, "--tests", "of files of tests instead, see `tocsin test`")
    _add_test(commands)
    _add_live(commands)
    _add_recording(commands)
    _add_outbox(commands)
    _add_silence(commands)
    _add_ledger(commands)
    instances = _add(commands, "instances", "instances", "show which processes share the ledger", examples.INSTANCES)
    _finish(instances, json="print JSON, one object a line")
    history = "show when an alert fired and which channels were notified"
    episodes = _add(commands, "history", "history", history, examples.HISTORY)
    episodes.add_argument("alert", help="the alert's name")
    _number(episodes, "how many to show at most, newest first (default: 50)")
    _finish(episodes, json="print JSON, one object a line")
    _add_postgres(commands)
    _flag(_add(commands, "version", "version", "print versions", examples.VERSION), "--json", "print JSON")
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


def _add_test(commands: _Commands) -> None:
    test = _add(commands, "test", "test", "run unit tests of alerts, in virtual time", examples.TEST)
    test.add_argument("files", nargs="+", metavar="FILE", help="files of tests; each names its configuration")
    test.add_argument("-k", "--filter", default="", metavar="TEXT", help="only tests with this text in their name")
    test.add_argument("--junit", metavar="FILE", help="also write the results as JUnit's XML")
    _flag(test, "--watch", "run again whenever a test or its configuration changes")


def _add_live(commands: _Commands) -> None:
    alerts = _add(commands, "alerts", "live", "show what is firing now", examples.ALERTS)
    alerts.add_argument("alert", nargs="?", help="only this alert")
    tail = _add(commands, "tail", "live", "follow alerts as they fire and resolve", examples.TAIL)
    tail.add_argument("--alert", help="only this alert")
    explain = "say why a key fires or not, and what was sent of it"
    explaining = _add(commands, "explain", "explain", explain, examples.EXPLAIN)
    explaining.add_argument("alert", help="the alert's name")
    key = "values of key columns, column=value, or a fingerprint"
    explaining.add_argument("values", metavar="KEY", nargs="*", help=key)
    for command in (alerts, tail, explaining):
        _login(command)
        _finish(command, json="print JSON, one object a line")


def _login(command: argparse.ArgumentParser) -> None:
    """Add how to reach the running process."""
    where = "the address of the running Tocsin (default: web.listen of the configuration)"
    command.add_argument("--url", help=where)
    command.add_argument("--ca", metavar="FILE", help="with https: the CA of the server (default: the system's)")
    command.add_argument("--cert", metavar="FILE", help="with https: a client certificate")
    command.add_argument("--key", metavar="FILE", help="its key (default: in the same file)")
    command.add_argument("--user", help="a user of web.config_file; the password is $TOCSIN_PASSWORD, or asked for")
    command.add_argument("--token-file", metavar="FILE", help="a file with a token (default: $TOCSIN_TOKEN)")


def _add_recording(commands: _Commands) -> None:
    record = _add(commands, "record", "record", "record what the sources deliver to a running Tocsin", examples.RECORD)
    record.add_argument("--alert", action="append", default=[], help="only this alert; may be repeated")
    record.add_argument("-o", "--output", metavar="FILE", help="the file (default: tocsin-<time>.jsonl.gz)")
    hides = "hide the values of this column, so that equal ones stay equal; may be repeated"
    record.add_argument("--redact", metavar="COLUMN", action="append", default=[], help=hides)
    _login(record)
    _finish(record)
    replay = _add(commands, "replay", "replay", "run the alerts of a configuration over a recording", examples.REPLAY)
    replay.add_argument("file", metavar="FILE", help="what `tocsin record` has written")
    replay.add_argument("--alert", action="append", default=[], help="only this alert; may be repeated")
    how_fast = "how many times as fast as it was recorded, or max (default: max; with --send: 1)"
    replay.add_argument("--speed", type=_speed, metavar="N", help=how_fast)
    _flag(replay, "--send", "send to the channels of the configuration, with other ids; asks first")
    _flag(replay, "--yes", "with --send: do not ask")
    _finish(replay, json="print what would be sent as JSON, one object a line")


def _speed(text: str) -> float:
    try:
        speed = float("inf") if text == "max" else float(text)
    except ValueError:
        speed = 0.0
    if not speed > 0:
        raise argparse.ArgumentTypeError("it must be a number above 0, or max")
    return speed


def _add_outbox(commands: _Commands) -> None:
    outbox = _add(commands, "outbox", "outbox", "show, retry or drop notifications", examples.OUTBOX)
    actions = outbox.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _add(actions, "list", "outbox", "list notifications, newest first", examples.OUTBOX_LIST)
    group = listing.add_mutually_exclusive_group()
    for status in ("pending", "dead", "delivered", "dropped"):
        group.add_argument(f"--{status}", dest="status", action="store_const", const=status, help=f"only {status}")
    listing.add_argument("--channel", help="only this channel")
    listing.add_argument("--alert", help="only this alert")
    listing.add_argument("--reason", help="only those whose last attempt failed for this reason, such as rejected")
    _number(listing, "how many to list at most (default: 50)")
    show = _add(actions, "show", "outbox", "show one notification with its row", examples.OUTBOX_SHOW)
    show.add_argument("id", help="the id of the notification, or how it begins")
    retry = _add(actions, "retry", "outbox", "make dead letters pending again", examples.OUTBOX_RETRY)
    drop = _add(actions, "drop", "outbox", "drop dead or pending notifications", examples.OUTBOX_DROP)
    for action in (retry, drop):
        action.add_argument("id", nargs="*", help="ids of notifications, or how they begin")
        _flag(action, "--all", "all dead letters")
        action.add_argument("--channel", help="with --all: only this channel")
        action.add_argument("--alert", help="with --all: only this alert")
        action.add_argument("--reason", help="with --all: only those given up on for this reason, such as rejected")
    for action in (listing, show, retry, drop):
        _finish(action, json="print JSON")


def _add_silence(commands: _Commands) -> None:
    silence = _add(commands, "silence", "silence", "hold back notifications for a time", examples.SILENCE)
    actions = silence.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = _add(actions, "add", "silence", "hold back what matches", examples.SILENCE_ADD)
    listing = _add(actions, "list", "silence", "list silences, newest first", examples.SILENCE_LIST)
    show = _add(
        actions, "show", "silence", "show a silence, and the notifications that it holds", examples.SILENCE_SHOW
    )
    end = _add(actions, "end", "silence", "end a silence now", examples.SILENCE_END)
    preview = _add(actions, "preview", "silence", "show what matches now", examples.SILENCE_PREVIEW)
    for action in (add, preview):
        action.add_argument("matchers", help="""as in Alertmanager: 'alertname="late_orders", customer=~"A.*"'""")
    for action in (show, end):
        action.add_argument("id", help="the id of the silence, or how it begins")
    add.add_argument("--reason", required=True, help="why, for those who find it")
    ends = add.add_mutually_exclusive_group(required=True)
    ends.add_argument("--for", dest="duration", metavar="DURATION", help="how long, as 30m, 2h or 1d")
    ends.add_argument("--until", metavar="TIME", help="until when, as 2026-12-01T22:00Z")
    add.add_argument("--start", metavar="TIME", help="from when, or from now as 30m (default: now)")
    add.add_argument("--by", metavar="NAME", help="who made it (default: the user of this command)")
    _flag(listing, "--all", "also those that have ended")
    _number(show, "how many notifications to show at most (default: 50)")
    for action in (add, listing, show, end, preview):
        _finish(action, json="print JSON")


def _add_ledger(commands: _Commands) -> None:
    ledger = _add(commands, "ledger", "ledger", "copy the ledger, or update its tables", examples.LEDGER)
    actions = ledger.add_subparsers(dest="action", metavar="ACTION", required=True)
    copy = _add(
        actions, "copy", "ledger", "copy a ledger, compare it, and leave the source as it is", examples.LEDGER_COPY
    )
    where = "a file, postgresql://user@host/database, or a configuration file (.yaml) whose ledger is meant"
    copy.add_argument("source", metavar="FROM", help=where)
    copy.add_argument("target", metavar="TO", help="the same; it must be new, or hold an unfinished copy of FROM")
    migrate = _add(
        actions, "migrate", "ledger", "make tables in PostgreSQL, or bring them up to date", examples.LEDGER_MIGRATE
    )
    migrate.add_argument("place", metavar="CONFIG", help="a configuration file (.yaml), or the address of its ledger")
    _flag(migrate, "--dry-run", "print the SQL, and change nothing")


def _add_init(commands: _Commands) -> None:
    init = _add(commands, "init", "init", "write a first configuration", examples.INIT)
    init.add_argument("--dsn", metavar="DSN", help="the server, as in postgresql://user@host/database; it is asked")
    relation = "a view or table to watch, as SQL writes it; may be repeated (default: the first one)"
    init.add_argument("--relation", metavar="NAME", action="append", default=[], help=relation)
    init.add_argument(
        "--channel", metavar="TYPE", help="console, webhook, novu, email, slack, apprise, alertmanager or none"
    )
    setting = "a setting of the channel, as in url=https://example.com/hook; may be repeated"
    init.add_argument("--set", metavar="KEY=TEXT", action="append", default=[], help=setting)
    _flag(init, "--yes", "ask nothing, accept every proposal")
    init.add_argument("-o", "--output", metavar="FILE", help="the file to write; it must not exist (default: print it)")
    other = init.add_mutually_exclusive_group()
    variables = "translate the variables of the script materialize-novu"
    other.add_argument("--from-env", action="store_true", help=variables)
    other.add_argument("--from-query-exporter", metavar="FILE", help="translate a configuration of query-exporter")
    exporters = "translate a configuration of sql_exporter, burningalchemist's or justwatch's"
    other.add_argument("--from-sql-exporter", metavar="FILE", help=exporters)


def _add_postgres(commands: _Commands) -> None:
    sql = _add(
        commands, "sql", "sql", "print the SQL that PostgreSQL sources, channels and the ledger need", examples.SQL
    )
    sql.add_argument(
        "name", nargs="?", help="a source of type postgres_events, a channel of type postgres, or `ledger`"
    )
    _flag(sql, "--existing", "for an existing events table")
    _flag(sql, "--backlog", "for an existing events table whose rows become pending events")
    notify = _add(commands, "notify", "notify", "publish one event into an events table", examples.NOTIFY)
    notify.add_argument("source", help="a source of type postgres_events")
    notify.add_argument("name", help="the event's name, which alerts refer to")
    notify.add_argument("--data", metavar="JSON", help="an object for the column `data`")
    notify.add_argument("--key", help="the value of the source's key column")
    notify.add_argument("--set", metavar="COLUMN=TEXT", action="append", default=[], help="the value of another column")
    for command in (sql, notify):
        _finish(command)

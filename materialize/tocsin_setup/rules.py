"""The command line of `rule.py`: rules are rows, so this is INSERT, UPDATE and DELETE with questions asked first."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from psycopg import sql

from tocsin_setup.cli import DIRECTORY, PREFIX, add_connection
from tocsin_setup.errors import RuleError, SetupError
from tocsin_setup.script import variables
from tocsin_setup.server import LostError, Patience, Server, StatementError

_WAIT = 15.0  # seconds

_EPILOG = """\
examples:
  python rule.py list
  python rule.py add 'expensive pizza' --item 'Best Pizza in Town' --above 90 --severity warning
  python rule.py change 'expensive pizza' --above 80
  python rule.py remove 'expensive pizza'
  python rule.py set-threshold B 20                         a spike of B is more than 20 deployments from now on

The connection string is --dsn or TOCSIN_SETUP_DSN. A change is felt at once: alerts start and stop within a second.

exit codes: 0 done, 1 it could not be done, 2 the options make no sense
"""


class Rules:
    """The rules of a schema.

    Raises (every method):
        RuleError: it cannot be done as asked; the message says what there is.
        StatementError, LostError: the server refused, or went away.
    """

    def __init__(self, server: Server, schema: str) -> None:
        self._server = server
        self._schema = schema

    def auctions(self) -> list[tuple[str, str, Decimal, str]]:
        """Rules for auctions: name, item, price above which to alert, severity."""
        query = "SELECT alert_name, item_name, price_above, severity FROM {auction_alerts} ORDER BY 1, 2"
        return [(name, item, above, severity) for name, item, above, severity in self._server.ask(self._sql(query))]

    def organizations(self) -> list[tuple[str, int, str, str]]:
        """Organizations: name, threshold, severity, owner."""
        query = "SELECT organization, threshold, severity, owner FROM {organizations} ORDER BY 1"
        return [(name, most, severity, owner) for name, most, severity, owner in self._server.ask(self._sql(query))]

    def add(self, name: str, *, item: str, above: Decimal, severity: str) -> None:
        """A new rule: alert when the item sells for more."""
        # One statement, so that of two who add the same rule at once one is told.
        added = self._change(
            "INSERT INTO {auction_alerts} (alert_name, item_name, price_above, severity) "
            "SELECT %s, %s, %s::numeric, %s "
            "WHERE NOT EXISTS (SELECT 1 FROM {auction_alerts} WHERE alert_name = %s AND item_name = %s)",
            *(name, item, above, severity, name, item),
        )
        if not added:
            raise RuleError(f"there is a rule {name!r} for {item!r} already; use change")

    def change(self, name: str, *, item: str | None, above: Decimal | None, severity: str | None) -> int:
        """Other values for the rules of this name, or the one of them for `item`. Returns how many there were."""
        new = {"price_above": above, "severity": severity}
        given = {column: value for column, value in new.items() if value is not None}
        if not given:
            raise RuleError("nothing to change: give --above or --severity")
        columns = ", ".join(f"{column} = %s" for column in given)
        where, values = self._where(name, item)
        statement = f"UPDATE {{auction_alerts}} SET {columns} {where}"  # noqa: S608 - of fixed words only
        return self._some(self._change(statement, *given.values(), *values), name)

    def remove(self, name: str, *, item: str | None) -> int:
        """The rules of this name, or the one of them for `item`, are gone. Returns how many there were."""
        where, values = self._where(name, item)
        statement = f"DELETE FROM {{auction_alerts}} {where}"  # noqa: S608 - of fixed words only
        return self._some(self._change(statement, *values), name)

    def set_threshold(self, organization: str, threshold: int) -> None:
        """More deployments than this are a spike of the organization."""
        statement = "UPDATE {organizations} SET threshold = %s WHERE organization = %s"
        if not self._change(statement, threshold, organization):
            known = ", ".join(name for name, *_ in self.organizations())
            raise RuleError(f"there is no organization {organization!r}; there are {known or 'none'}")

    def _change(self, statement: str, *values: object) -> int:
        return self._server.change(self._sql(statement, percent="%%"), *values)

    def _sql(self, statement: str, percent: str = "%") -> str:
        """The statement with the names of the tables. `percent` is how a percent sign in a name has to be written."""
        tables = ("auction_alerts", "organizations")
        names = {table: sql.Identifier(self._schema, table).as_string().replace("%", percent) for table in tables}
        return statement.format(**names)

    def _where(self, name: str, item: str | None) -> tuple[str, tuple[str, ...]]:
        if item is None:
            return "WHERE alert_name = %s", (name,)
        return "WHERE alert_name = %s AND item_name = %s", (name, item)

    def _some(self, changed: int, name: str) -> int:
        if not changed:
            known = ", ".join(repr(one) for one in sorted({one for one, *_ in self.auctions()}))
            raise RuleError(f"there is no such rule as {name!r}; there are {known or 'none'}")
        return changed


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = _parser(os.environ if environ is None else environ).parse_args(arguments)
        patience = Patience(
            say=lambda line: print(line, file=sys.stderr, flush=True),
            monotonic=time.monotonic,
            sleep=time.sleep,
            deadline=time.monotonic() + _WAIT,
        )
        server = Server(options.dsn, patience)
        try:
            server.connect()
            with contextlib.suppress(StatementError):
                server.run(sql.SQL("SET cluster = {}").format(sql.Identifier(options.cluster)).as_string())
            _run(options, Rules(server, options.schema))
        finally:
            server.close()
    except (SetupError, StatementError, LostError) as error:
        print(f"rule: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: argparse.Namespace, rules: Rules) -> None:
    match options.command:
        case "list":
            _table(("auction rule", "item", "above", "severity"), rules.auctions())
            print()
            _table(("organization", "threshold", "severity", "owner"), rules.organizations())
        case "add":
            rules.add(options.name, item=options.item, above=options.above, severity=options.severity)
            print(
                f"added {options.name!r}: {options.severity} when {options.item!r} sells for more than {options.above}"
            )
        case "change":
            many = rules.change(options.name, item=options.item, above=options.above, severity=options.severity)
            print(f"changed {options.name!r} ({many} rule{'s' * (many != 1)})")
        case "remove":
            many = rules.remove(options.name, item=options.item)
            print(f"removed {options.name!r} ({many} rule{'s' * (many != 1)})")
        case "set-threshold":
            rules.set_threshold(options.organization, options.threshold)
            print(f"a spike of {options.organization} is now more than {options.threshold} deployments")


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    lines = [head, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rule.py",
        description="List, add, change and remove rules while everything runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_connection(parser, environ)
    for one in variables(DIRECTORY):
        if one.name in {"schema", "cluster"}:
            default = environ.get(f"{PREFIX}{one.name.upper()}") or one.default
            parser.add_argument(f"--{one.name}", default=default, help=f"{one.help} ({one.default})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="all rules")
    add = commands.add_parser("add", help="a new rule for auctions")
    change = commands.add_parser("change", help="other values for a rule")
    remove = commands.add_parser("remove", help="a rule is gone")
    for command in (add, change, remove):
        command.add_argument("name", type=_name, help="name of the rule")
        command.add_argument("--item", type=_name, required=command is add, help="what is sold")
    for command in (add, change):
        new = command is add
        command.add_argument("--above", type=_price, required=new, metavar="PRICE", help="alert when it is more")
        command.add_argument("--severity", type=_name, default="warning" if new else None, help="such as warning")
    threshold = commands.add_parser("set-threshold", help="how many deployments of an organization are no spike yet")
    threshold.add_argument("organization", type=_name)
    threshold.add_argument("threshold", type=_count)
    return parser


def _name(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text)
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or abs(price) >= Decimal(10) ** 12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price such as 90 or 19.99")
    return price


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 2**31 - 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of deployments such as 20")
    return int(text)

"""`tocsin init`: a first configuration."""

import asyncio
import contextlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tocsin.app import logs
from tocsin.cli import Exit
from tocsin.cli.configuration import warn
from tocsin.config import Config
from tocsin.config.environment import from_environment
from tocsin.config.loading import load_text
from tocsin.config.sections import LogSettings
from tocsin.errors import ConfigError, TocsinError

if TYPE_CHECKING:
    from tocsin.init.document import Written
    from tocsin.init.facts import Facts

_FIRST = Path(__file__).with_name("first.yaml")
"""The first configuration of README.md."""
_FILE = "tocsin.yaml"
_WIDEST = 4_000
_GREETING = """\
This writes a configuration for a view of Materialize or PostgreSQL. Enter accepts
what is in brackets. A server is postgresql://user:password@host:port/database
"""


def command(chosen: Namespace) -> Exit:
    if chosen.from_env:
        text, config = from_environment(os.environ)
        warn(config)
        return _printed(text, chosen.output)
    if chosen.from_query_exporter or chosen.from_sql_exporter:
        return _translated(chosen)
    asked = (chosen.dsn, chosen.relation, chosen.channel, chosen.set, chosen.yes, chosen.output)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not terminal and not any(asked):
        print(_FIRST.read_text(encoding="utf-8"), end="")
        return Exit.OK
    logs.configure(LogSettings(level="error"))
    try:
        return _made(chosen, asks=terminal and not chosen.yes)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise


def _printed(text: str, output: str | None) -> Exit:
    """Print a configuration, or write it to a file that does not exist."""
    from tocsin.init import files

    if output in (None, "-"):
        print(text, end="")
    else:
        files.refuse_to_overwrite({output: text.removesuffix("\n")})
        files.write(text, output, {})
        print(f"wrote {output}", file=sys.stderr)
    return Exit.OK


def _made(chosen: Namespace, *, asks: bool) -> Exit:
    from tocsin.init import interview, terminal
    from tocsin.init.channels import Place
    from tocsin.init.document import document

    def say(line: str) -> None:
        print(line, file=sys.stdout if asks else sys.stderr)

    given = interview.Given(
        dsn=chosen.dsn,
        relations=chosen.relation,
        channel=chosen.channel,
        settings=_settings(chosen.set),
        asks=asks,
        say=say,
    )
    interview.check(given)
    if chosen.output not in (None, "-"):  # before the server is asked
        try:
            terminal.writable(chosen.output)
        except ValueError as error:
            raise TocsinError(f"-o {chosen.output}: {error}") from None
    if asks:
        terminal.edit_lines()
        say(_GREETING)
    connection, inventory = interview.connected(given)
    say(f"{inventory.version}, {connection.server().display}")
    found = interview.watched(given, connection, inventory)
    answers = (inventory, connection, interview.channel(given), found)
    # A setting of the channel may be wrong: that is found before a file is written.
    tried = document(*answers, Place(file=None))
    load_text(tried.text, "the configuration", {**os.environ, **tried.variables})
    output = terminal.ask("File to write", _FILE, terminal.writable) if asks and not chosen.output else chosen.output
    file = None if output in (None, "-") else output
    written = document(*answers, Place(file=file))
    _save(written, file, say, asks=asks)
    config = load_text(written.text, file or "the configuration", {**os.environ, **written.variables})
    return _shown(config, written.alerts, file, say)


def _save(written: "Written", file: str | None, say: Callable[[str], None], *, asks: bool) -> None:
    from tocsin.init import files, terminal

    if file is None:
        print(written.text, end="")
        for name in written.variables:
            say(f"set the variable {name} before you run it; with -o FILE it goes into a file beside the configuration")
        return

    def agrees(name: str) -> bool:
        return asks and terminal.ask(f"{name} exists. Overwrite it?", "n", terminal.yes)

    files.refuse_to_overwrite({file: written.text.removesuffix("\n"), **written.secret_files}, agrees)
    files.write(written.text, file, written.secret_files)
    say(f"\nwrote {', '.join([file, *written.secret_files])}")


def _settings(texts: list[str]) -> dict[str, str]:
    parts = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, parts, strict=True):
        if not key or not equals:
            raise TocsinError(f"--set {text!r}: write KEY=TEXT, as in url=https://example.com/hook")
    return {key: text for key, _, text in parts}


def _shown(config: Config, facts: Mapping[str, "Facts"], file: str | None, say: Callable[[str], None]) -> Exit:
    from tocsin.cli.check import problems_of
    from tocsin.init.preview import previews

    refused = [f"alerts.{name}: {one.refused}; change the view" for name, one in facts.items() if one.refused]
    problems = [*map(str, asyncio.run(problems_of(config))), *refused]
    for problem in problems:
        say(f"to do: {problem}")
    if not problems:
        say("checked: the configuration is valid, and the servers agree")
    requests: Mapping[str, list[Any]] = {}
    with contextlib.suppress(ConfigError):  # a package is missing, which is among the problems
        requests = asyncio.run(previews(config, {} if refused else facts))
    for alert, shown in requests.items():
        when = "if such rows came" if config.row_alerts[alert].initial == "silent" else "for its rows now"
        say(f"\nwhat {alert} would send {when} ({len(facts[alert].rows):,} read):")
        for request in shown if list(shown[0]) == ["line"] else shown[:1]:
            say(_readable(request))
    silent = [name for name, alert in config.row_alerts.items() if alert.initial == "silent"]
    if silent:
        say(f"\nthe first start sends nothing for the rows that are there ({', '.join(silent)}: initial: silent)")
    if file is not None:
        option = "" if file == _FILE else f" -c {file}"
        say(f"\nnext: tocsin {'check --online' if problems else 'run'}{option}")
    return Exit.FAILED if problems else Exit.OK


def _readable(request: Any) -> str:
    if list(request) == ["line"]:
        return str(request["line"])
    # The HTML of a mail says what its text says, in a hundred lines.
    short = {name: value for name, value in request.items() if name != "html" or "text" not in request}
    text = json.dumps(short, indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= _WIDEST else text[:_WIDEST] + "\n..."


def _translated(chosen: Namespace) -> Exit:
    """Translate another tool's configuration. What is lost or differs is in comments and on standard error."""
    if chosen.from_query_exporter:
        from tocsin.init.from_query_exporter import translated

        text, notes = translated(chosen.from_query_exporter)
    else:
        from tocsin.init.from_sql_exporter import translated

        text, notes = translated(chosen.from_sql_exporter)
    for heading, lines in (("not translated", notes.lost), ("different", notes.different)):
        for line in lines:
            print(f"{heading}: {line}", file=sys.stderr)
    if not text:
        raise TocsinError("nothing of the file can be translated")
    return _printed(text, chosen.output)

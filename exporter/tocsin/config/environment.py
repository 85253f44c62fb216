"""A configuration made of the environment variables of the script materialize-novu, for those who come from it.

One view, one Novu workflow, one process, as there. `docs/from-the-environment.md` says what became of each variable.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tocsin.config.document import Document
from tocsin.config.loading import assemble
from tocsin.config.redaction import duration
from tocsin.config.resolved import Config
from tocsin.errors import ConfigError, Problem

REQUIRED = (
    "NOVU_API_KEY",
    "NOVU_WORKFLOW_NAME",
    "MTZ_USER",
    "MTZ_PASSWORD",
    "MTZ_HOST",
    "MTZ_ALERT_VIEW",
    "MTZ_PERSIST_TABLE",
    "MTZ_ALERT_PAYLOAD",
)
OPTIONAL = (
    "NOVU_RECIPIENTS",
    "RECIPIENTS_IN_PAYLOAD",
    "SEND_RETRACTIONS",
    "NOVU_URL",
    "MTZ_CLUSTER",
    "MTZ_DATABASE",
    "RETAIN_HISTORY",
    "PROGRESS_TIMEOUT_MINUTES",
    "LOG_LEVEL",
    "LOG_OUTPUT",
    "TEST_MODE",
    "NOVU_PYTHON_REQUESTS_TIMEOUT",
)
ADDED = ("MTZ_PORT", "MTZ_SSLMODE", "TOCSIN_LISTEN")
"""Variables that the script did not have."""

_WHERE = {
    "channels.novu.api_key": "NOVU_API_KEY",
    "channels.novu.workflow": "NOVU_WORKFLOW_NAME",
    "channels.novu.recipients": "NOVU_RECIPIENTS",
    "channels.novu.url": "NOVU_URL",
    "channels.novu.timeout": "NOVU_PYTHON_REQUESTS_TIMEOUT",
    "sources.materialize.host": "MTZ_HOST",
    "sources.materialize.port": "MTZ_PORT",
    "sources.materialize.user": "MTZ_USER",
    "sources.materialize.password": "MTZ_PASSWORD",
    "sources.materialize.database": "MTZ_DATABASE",
    "sources.materialize.cluster": "MTZ_CLUSTER",
    "sources.materialize.sslmode": "MTZ_SSLMODE",
    "sources.materialize.progress_timeout": "PROGRESS_TIMEOUT_MINUTES",
    "log.level": "LOG_LEVEL",
    "log.output": "LOG_OUTPUT",
    "ledger.path": "MTZ_PERSIST_TABLE",
    "web.listen": "TOCSIN_LISTEN",
}
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none", "")
_LEVELS = {"warn": "warning", "critical": "error", "fatal": "error", "notset": "debug"}
_COLUMN = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')
_ITEM = re.compile(r'(?:"(?:[^"]|"")*"|[^,"])+')


def speaks(environ: Mapping[str, str]) -> bool:
    """Whether somebody has set variables of the script."""
    return any(environ.get(name, "").strip() for name in REQUIRED)


def from_environment(environ: Mapping[str, str]) -> Config:
    """The configuration. Raises ConfigError naming every variable that is missing or cannot be used."""
    variables = _Variables(environ)
    data = _data(variables)
    config: Config | None = None
    if data is not None:
        document = Document(data=data, file="environment")
        try:
            config = assemble(document, dry_run=variables.flag("TEST_MODE"))
        except ConfigError as error:
            # Whether a workflow and recipients are given has been told in the variables' own words.
            variables.problems += [_renamed(one) for one in error.problems if not one.path.endswith(".notify[0]")]
    if variables.problems or config is None:
        raise ConfigError(list(dict.fromkeys(variables.problems)))
    return _with_warnings(config, variables.warnings)


@dataclass(slots=True)
class _Variables:
    """The variables without surrounding blanks, and what is wrong with them."""

    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def text(self, name: str, default: str = "") -> str:
        return self.environ.get(name, "").strip() or default

    def refuse(self, name: str, message: str) -> None:
        self.problems.append(Problem(message=message, path=name, file="environment"))

    def warn(self, name: str, message: str) -> None:
        self.warnings.append(Problem(message=message, path=name, file="environment"))

    def flag(self, name: str) -> bool:
        text = self.text(name).lower()
        if text not in (*_YES, *_NO):
            self.refuse(name, "must be True or False")
        return text in _YES

    def number(self, name: str, default: float) -> float:
        try:
            number = float(self.text(name, str(default)))
        except ValueError:
            number = 0.0
        if not 0 < number < 1e6:
            self.refuse(name, "must be a number above 0")
            return default
        return number

    def names(self, name: str) -> list[str]:
        """The entries of a list with commas; a comma within double quotes is part of a name."""
        items = (item.strip() for item in _ITEM.findall(self.text(name)))
        return list(dict.fromkeys(item for item in items if item))


def _data(variables: _Variables) -> dict[str, Any] | None:
    """What a file with the same meaning would say; None if it cannot be told."""
    for name in REQUIRED:
        if not variables.text(name):
            variables.refuse(name, "is required")
    columns = _columns(variables)
    timeout = variables.number("PROGRESS_TIMEOUT_MINUTES", 10) * 60
    recipients = _recipients(variables, [output for _, output in columns])
    query = _query(variables, columns)
    retractions = variables.flag("SEND_RETRACTIONS")
    request_timeout = duration(variables.number("NOVU_PYTHON_REQUESTS_TIMEOUT", 5))
    if variables.text("RETAIN_HISTORY"):
        variables.warn("RETAIN_HISTORY", "has no effect: the server is asked how far its history reaches back")
    variables.flag("TEST_MODE")
    if not query or any(not variables.text(name) for name in REQUIRED):
        return None
    level = variables.text("LOG_LEVEL", "WARNING").lower()
    return {
        "ledger": {"path": re.sub(r"[^\w.-]", "_", variables.text("MTZ_PERSIST_TABLE")) + ".db"},
        "web": {"listen": variables.text("TOCSIN_LISTEN", "127.0.0.1:8627")},
        "log": {"level": _LEVELS.get(level, level), "output": variables.text("LOG_OUTPUT", "stdout")},
        "sources": {
            "materialize": {
                "type": "materialize",
                "host": variables.text("MTZ_HOST"),
                "port": variables.text("MTZ_PORT", "6875"),
                "user": variables.text("MTZ_USER"),
                "password": variables.text("MTZ_PASSWORD"),
                "database": variables.text("MTZ_DATABASE", "materialize"),
                "cluster": variables.text("MTZ_CLUSTER", "quickstart"),
                "sslmode": variables.text("MTZ_SSLMODE", "require"),
                "progress_timeout": duration(timeout),
                "stale_after": duration(max(timeout, 300)),
                "on_stall": "exit",
            }
        },
        "channels": {
            "novu": {
                "type": "novu",
                "api_key": variables.text("NOVU_API_KEY"),
                "url": variables.text("NOVU_URL", "https://api.novu.co"),
                "workflow": variables.text("NOVU_WORKFLOW_NAME"),
                "recipients": recipients,
                "payload": [output for _, output in columns],
                "on_resolve": "cancel" if retractions else "nothing",
                "timeout": request_timeout,
            }
        },
        "alerts": {
            _name(variables.text("MTZ_ALERT_VIEW")): {
                "source": "materialize",
                "query": query,
                # The script never told of rows that were there before it, and made no gauges: with every column of a
                # payload as a label, each new row would be a new series.
                "initial": "silent",
                "gauges": False,
                "notify": ["novu"],
            }
        },
    }


def _columns(variables: _Variables) -> list[tuple[str, str]]:
    """The payload's columns, as `(name in the view, key in the payload)`."""
    columns: list[tuple[str, str]] = []
    for item in variables.names("MTZ_ALERT_PAYLOAD"):
        match = _COLUMN.fullmatch(item)
        if match is None:
            message = f"{item!r} is no column name; expressions belong into the view"
            variables.refuse("MTZ_ALERT_PAYLOAD", message)
        elif match[1]:
            columns.append((match[1].replace('""', '"'), match[1].replace('""', '"')))
        else:
            columns.append((item.lower(), item))  # as SQL reads a name without quotes
    return columns


def _recipients(variables: _Variables, columns: list[str]) -> list[Any]:
    recipients: list[Any] = [*variables.names("NOVU_RECIPIENTS")]
    column = variables.text("RECIPIENTS_IN_PAYLOAD").strip('"')
    if column in columns:
        recipients.append({"column": column})
    elif column.lower() in _NO:
        if column:
            message = f"is the name of a column, so {column} is taken as not set"
            variables.warn("RECIPIENTS_IN_PAYLOAD", message)
    else:
        variables.refuse("RECIPIENTS_IN_PAYLOAD", f"must be a column that MTZ_ALERT_PAYLOAD lists, not {column!r}")
        return recipients
    if not recipients:
        variables.refuse("NOVU_RECIPIENTS", "is required, or RECIPIENTS_IN_PAYLOAD: else nobody would be notified")
    return recipients


def _query(variables: _Variables, columns: list[tuple[str, str]]) -> str:
    from psycopg import sql

    from tocsin.postgres import relation

    view = variables.text("MTZ_ALERT_VIEW")
    try:
        source = relation(view) if view else None
    except ValueError as error:
        variables.refuse("MTZ_ALERT_VIEW", str(error))
        return ""
    if source is None or not columns:
        return ""
    selected = [
        sql.Identifier(name) if name == key else sql.SQL("{} AS {}").format(sql.Identifier(name), sql.Identifier(key))
        for name, key in columns
    ]
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(selected), source).as_string(None)


def _name(view: str) -> str:
    last = re.sub(r"\W+", "_", view.rpartition(".")[2], flags=re.ASCII).strip("_")
    return last[:100] or "alert"


def _renamed(problem: Problem) -> Problem:
    variable = next((name for path, name in _WHERE.items() if problem.path.startswith(path)), problem.path)
    return Problem(message=problem.message, path=variable, file="environment")


def _with_warnings(config: Config, warnings: list[Problem]) -> Config:
    return replace(config, warnings=(*warnings, *map(_renamed, config.warnings)))

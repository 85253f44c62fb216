"""The environment variables of the script materialize-novu, translated into a configuration document.

One view, one Novu workflow, one process, as in the script. The document is loaded like any other. It refers to the
variables, so that it holds no secret. `docs/from-the-environment.md` explains each variable.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tocsin.config.loading import load_text
from tocsin.config.problems import problem
from tocsin.config.resolved import Config
from tocsin.errors import ConfigError, Problem
from tocsin.settings import duration_text

REQUIRED = (
    *("NOVU_API_KEY", "NOVU_WORKFLOW_NAME", "MTZ_USER", "MTZ_PASSWORD", "MTZ_HOST", "MTZ_ALERT_VIEW"),
    *("MTZ_PERSIST_TABLE", "MTZ_ALERT_PAYLOAD"),
)
OPTIONAL = (
    *("NOVU_RECIPIENTS", "RECIPIENTS_IN_PAYLOAD", "SEND_RETRACTIONS", "NOVU_URL", "MTZ_CLUSTER", "MTZ_DATABASE"),
    *("RETAIN_HISTORY", "PROGRESS_TIMEOUT_MINUTES", "LOG_LEVEL", "LOG_OUTPUT", "TEST_MODE"),
    *("NOVU_PYTHON_REQUESTS_TIMEOUT", "MTZ_PORT", "MTZ_SSLMODE", "TOCSIN_LISTEN"),
)
"""The script did not have the last three."""

_FILE = "environment"
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none", "")
_LEVELS = {"warn": "warning", "critical": "error", "fatal": "error", "notset": "debug"}
_COLUMN = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')
_ITEM = re.compile(r'(?:"(?:[^"]|"")*"|[^,"])+')
_DOCUMENT = """\
# Made of the environment variables of materialize-novu, which it refers to.
# docs/from-the-environment.md explains each of them.
%(comment)sledger:
  path: %(ledger)s
web:
  listen: ${TOCSIN_LISTEN:-127.0.0.1:8627}
log:
  level: %(level)s
  output: ${LOG_OUTPUT:-stdout}
sources:
  materialize:
    type: materialize
    host: ${MTZ_HOST}
    port: ${MTZ_PORT:-6875}
    user: ${MTZ_USER}
    password: ${MTZ_PASSWORD}
    database: ${MTZ_DATABASE:-materialize}
    cluster: ${MTZ_CLUSTER:-quickstart}
    sslmode: ${MTZ_SSLMODE:-require}
    progress_timeout: %(progress_timeout)s
    stale_after: %(stale_after)s
    on_stall: exit
channels:
  novu:
    type: novu
    api_key: ${NOVU_API_KEY}
    url: ${NOVU_URL:-https://api.novu.co}
    workflow: ${NOVU_WORKFLOW_NAME}
    recipients: %(recipients)s
    payload: %(payload)s
    on_resolve: %(on_resolve)s
    timeout: %(timeout)s
alerts:
  %(alert)s:
    source: materialize
    query: %(query)s
    initial: silent     # as in the script: rows that exist at the start are not notified
    gauges: false       # with every payload column as a label, each new row would be a new series
    notify: [novu]
"""


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether variables of the script are set."""
    return any(environ.get(name, "").strip() for name in REQUIRED)


def from_environment(environ: Mapping[str, str]) -> tuple[str, Config]:
    """Return the document and its configuration. Raises ConfigError with every variable that is missing or cannot be
    used."""
    translation = _Translation(environ)
    dry_run = translation.flag("TEST_MODE")
    comment = "# For TEST_MODE, run it with --dry-run.\n" if dry_run else ""
    # JSON is YAML.
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in translation.computed().items()}
    text = _DOCUMENT % {**values, "comment": comment}
    try:
        config = load_text(text, _FILE, translation.values)
    except ConfigError as error:
        translation.problems += error.problems
    if translation.problems:
        raise ConfigError(list(dict.fromkeys(translation.problems)))
    warnings = (*translation.warnings, *config.warnings)
    return text, replace(config, warnings=warnings, dry_run=dry_run)


class _Translation:
    """The variables that are set, without surrounding blanks, and what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        stripped = {name: environ.get(name, "").strip() for name in (*REQUIRED, *OPTIONAL)}
        self.values = {name: value for name, value in stripped.items() if value}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def computed(self) -> dict[str, Any]:
        """Return what the document does not take from the variables as they are."""
        columns = self._columns()
        payload = [_literal(output) for _, output in columns]
        timeout = self._number("PROGRESS_TIMEOUT_MINUTES", 10) * 60
        if "RETAIN_HISTORY" in self.values:
            self.warnings.append(_about("RETAIN_HISTORY", "no_history"))
        ledger = re.sub(r"[^\w.-]", "_", self._value("MTZ_PERSIST_TABLE"))
        alert = re.sub(r"\W+", "_", self._value("MTZ_ALERT_VIEW").rpartition(".")[2], flags=re.ASCII).strip("_")
        return {
            "ledger": f"{ledger}.db" if ledger else "${MTZ_PERSIST_TABLE}",
            "level": _LEVELS.get(self._value("LOG_LEVEL").lower(), "${LOG_LEVEL:-WARNING}"),
            "progress_timeout": duration_text(timeout),
            "stale_after": duration_text(max(timeout, 300)),
            "recipients": self._recipients(payload),
            "payload": payload,
            "on_resolve": "cancel" if self.flag("SEND_RETRACTIONS") else "nothing",
            "timeout": duration_text(self._number("NOVU_PYTHON_REQUESTS_TIMEOUT", 5)),
            "alert": alert[:100] or "alert",
            "query": self._query(columns),
        }

    def flag(self, name: str) -> bool:
        text = self._value(name).lower()
        if text not in (*_YES, *_NO):
            self._refuse(name, "not_a_flag")
        return text in _YES

    def _value(self, name: str) -> str:
        return self.values.get(name, "")

    def _refuse(self, variable: str, code: str, **fields: Any) -> None:
        self.problems.append(_about(variable, code, **fields))

    def _number(self, name: str, default: float) -> float:
        try:
            number = float(self.values.get(name, default))
        except ValueError:
            number = 0.0
        if not 0 < number < 1e6:
            self._refuse(name, "not_positive")
            return default
        return number

    def _names(self, name: str) -> list[str]:
        """The entries of a list with commas; a comma within double quotes is part of a name."""
        items = (item.strip() for item in _ITEM.findall(self._value(name)))
        return list(dict.fromkeys(item for item in items if item))

    def _columns(self) -> list[tuple[str, str]]:
        """The payload's columns, as `(name in the view, key in the payload)`."""
        columns: list[tuple[str, str]] = []
        for item in self._names("MTZ_ALERT_PAYLOAD"):
            match = _COLUMN.fullmatch(item)
            if match is None:
                self._refuse("MTZ_ALERT_PAYLOAD", "not_a_column", name=item)
            elif match[1]:
                columns.append((match[1].replace('""', '"'), match[1].replace('""', '"')))
            else:
                columns.append((item.lower(), item))  # as SQL reads a name without quotes
        return columns

    def _recipients(self, payload: list[str]) -> list[Any]:
        recipients: list[Any] = [_literal(name) for name in self._names("NOVU_RECIPIENTS")]
        column = self._value("RECIPIENTS_IN_PAYLOAD").strip('"')
        if _literal(column) in payload:
            recipients.append({"column": _literal(column)})
        elif column.lower() not in _NO:
            self._refuse("RECIPIENTS_IN_PAYLOAD", "not_in_payload", name=column)
        elif column:
            self.warnings.append(_about("RECIPIENTS_IN_PAYLOAD", "column_not_set", name=column))
        if not recipients and column.lower() in _NO:
            self._refuse("NOVU_RECIPIENTS", "no_recipients")
        return recipients or ["none"]

    def _query(self, columns: list[tuple[str, str]]) -> str:
        from psycopg.sql import SQL, Identifier

        from tocsin.postgres import relation

        if "MTZ_ALERT_VIEW" not in self.values or "MTZ_ALERT_PAYLOAD" not in self.values:
            return "SELECT ${MTZ_ALERT_PAYLOAD} FROM ${MTZ_ALERT_VIEW}"
        try:
            view = relation(self.values["MTZ_ALERT_VIEW"])
        except ValueError as error:
            self.problems.append(Problem(code="invalid", path="MTZ_ALERT_VIEW", message=str(error), file=_FILE))
            return "SELECT"
        renamed = SQL("{} AS {}")
        selected = [Identifier(n) if n == key else renamed.format(Identifier(n), Identifier(key)) for n, key in columns]
        return _literal(SQL("SELECT {} FROM {}").format(SQL(", ").join(selected), view).as_string(None))


def _about(variable: str, code: str, **fields: Any) -> Problem:
    return replace(problem(code, variable, **fields), file=_FILE)


def _literal(text: str) -> str:
    """The text as a file has it, in which `${` begins a variable."""
    return text.replace("${", "$${")

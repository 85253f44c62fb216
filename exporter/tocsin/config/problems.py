"""The problems of a configuration: their codes, the texts made from their fields, and their places in the files.

A check of this package names a code and the fields of its text. Sources and channels bring their own codes and texts:
their validators raise `tocsin.settings.invalid`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from tocsin.errors import Problem

Path: TypeAlias = tuple[str | int, ...]

TEXTS: Mapping[str, str] = {
    # Files.
    "unreadable": "cannot read the file: {why}",
    "empty_file": "the file is empty",
    "no_file": "there is no {name} here; name a file with --config or TOCSIN_CONFIG, or begin with: tocsin init",
    "no_match": "no file matches {name!r}",
    "matches_itself": "{name!r} matches this file, too; write a pattern that only files of alerts match, as in "
    "alerts.d/*.yaml",
    "not_yaml": "not YAML: {why}",
    "too_deep": "nested too deeply",
    "too_many_values": "more than {limit} values",
    "recursive_alias": "an alias that contains itself",
    "unsupported_tag": "the tag {name!r} is not supported; put text that begins with ! in quotes",
    "complex_key": "a key must be plain text",
    "unquoted_template": "put text that has {{{{ }}}} in quotes",
    "bad_merge": "<< takes a mapping, or a list of mappings",
    "duplicate_key": "set twice; first in {first}",
    "bad_reference": "${{ begins a variable, as in ${{NAME}} or ${{NAME:-default}}; write $${{ for a plain ${{",
    "unset_variable": "the environment variable {name} is not set",
    # Values.
    "required": "is required{alternative}",
    "unknown_key": "is not a known key{suggestion}",
    "wrong_type": "must be {wanted}, not {found}",
    "unknown_choice": "must be {wanted}{found}",
    "out_of_range": "must be {wanted}",
    "too_few": "must have at least {wanted}",
    "empty": "must not be empty",
    "not_url": "must be a URL, as in https://example.com/path",
    # Sections and names.
    "nothing_to_watch": "there is nothing to watch; add alerts or alert_files",
    "no_type": "is required: one of {listed}",
    "unknown_type": "there is no type {name!r} (there are {listed}){suggestion}",
    "plugin": "{why}",
    "bad_name": "a name is made of at most 100 letters, digits, _ and -, and does not begin with -",
    "unknown_source": "there is no source {name!r}{suggestion}",
    "unknown_channel": "there is no channel {name!r}{suggestion}",
    "incomplete_channel": "channel {name}: {why}",
    "unused": "no alert uses it",
    "advice": "{why}",
    "no_effect_here": "has no effect: {why}",
    "no_alerts": "there are no alerts",
    "open_admin": "anyone who reaches {name} could reload and change the outbox; set tokens, or a config_file with "
    "users or client certificates, or listen on 127.0.0.1",
    "no_admin": "no one has the role admin; add admins, or a token with `role: admin`",
    "unknown_user": "there is no user {name!r} in basic_auth_users of web.config_file{suggestion}",
    # Alerts.
    "no_subject": "set {listed}",
    "unknown_subject": "the source {source} has no {name}; set {listed}",
    "not_for_events": "the source {source} delivers events, which neither fire nor resolve; remove {name}",
    "not_for_rows": "the source {source} delivers rows, not events; remove {name}",
    "window_without_dedupe": "has no effect without dedupe_by, which says which events are equal",
    "event_without_channel": "events have no gauge; add a channel to notify",
    "event_to_level": "channel {name} needs alert state, which events do not have; use another channel",
    "no_effect": "has neither gauges nor a channel to notify, so it does nothing",
    "listed_twice": "{name} is listed twice",
    "notified_twice": "{name} is notified twice",
    "empty_key": "must name a column; without it the label columns, or the whole row, identify a firing",
    "ignored_key": "{name} is part of {part}: when it changes, that is another firing",
    "scrape_label": "Prometheus sets {name} itself, and stores this one as exported_{name} unless the scrape "
    "configuration has honor_labels: true",
    "prometheus_metric": "Prometheus has {name} of its own, so a query of it would mix the two; set metric",
    "comment_in_one_line": "what comes after -- is a comment up to the end of the line, and the query has one line; "
    "write it as a block (query: |), or the comment as /* */",
    "value_in_key": "{name} is part of {part}: every new value is another firing",
    "bad_metric": "{name!r} is not a metric name (letters, digits and _){fix}",
    "own_metric": "metric names that begin with {taken} are Tocsin's own{fix}",
    "counter_metric": "a gauge's name must not end in {taken}, which belongs to counters and histograms{fix}",
    "bad_label": "{name!r} is not a label name (letters, digits and _){fix}",
    "own_label": "the label {name} is Prometheus's own{fix}",
    "label_twice": "{name} is both a label and a static label",
    "empty_label": "must not be empty: to Prometheus an empty label is none",
    "shared_metric_labels": "alert {name} has the metric {metric} too: then the names of all labels must be the same",
    "shared_metric_series": "alert {name} has the metric {metric} too: then static_labels must tell them apart",
    "shared_metric_help": "alert {name} has the metric {metric} too: then help must be the same",
    "ignored_column": "{channel} depends on the column {name}, whose changes this alert ignores; "
    "take {name} out of {setting}, or out of ignore",
    "never_sent": "{name} would never be notified: `on` has no kind that this alert has",
    "mixed_recipients": "with interval, rows of every {name} are merged into one message, which {end}; "
    "add {name} to group_by",
    # Templates; `text` is that of the TemplateError, with the line in the template.
    "template": "{text}{tried}",
    # This machine.
    "no_directory": "there is no directory {name}",
    "is_directory": "{name} is a directory; name a file in it",
    "missing_file": "there is no file {name}",
    "missing_package": "needs a package: pip install 'tocsin[{name}]'",
    # The servers.
    "unchecked": "cannot be checked: {why}",
    "source": "{why}",
    "refused": "{why}",
    "waits": "{why}",
    "unknown_column": "there is no column {name!r}{where} (there are {listed}){suggestion}",
    "nested_column": "there is no column {name!r}; a field of {column} needs a column of its own: select it in the "
    "view or query, as in {column}->>'{field}'",
    "unknown_field": "there is no field {name!r} in {column} of the latest event{suggestion}",
    "ambiguous_column": "there are several columns {name!r}; give each its own name",
    "not_a_number": "{name} is of type {found}, which is not a number; cast it in the view",
    # Environment variables of materialize-novu.
    "not_a_flag": "must be True or False",
    "not_positive": "must be a number above 0",
    "not_a_column": "{name!r} is not a column name; move expressions into the view",
    "not_in_payload": "must be a column that MTZ_ALERT_PAYLOAD lists, not {name!r}",
    "no_recipients": "is required, or RECIPIENTS_IN_PAYLOAD: no one would be notified",
    "column_not_set": "is the name of a column, so {name} is taken as not set",
    "no_history": "has no effect: the server is asked how far its history reaches back",
}
"""Code -> text with fields in braces. `suggestion` and `listed` are made of `name` and `available`."""


def problem(
    code: str, path: str | Path = "", *, name: object = "", available: Iterable[str] = (), **fields: object
) -> Problem:
    """Make a problem without a place in a file. `path`: dotted, or its parts."""
    known = tuple(available)
    made = {"suggestion": suggestion(str(name), known), "listed": ", ".join(known), **fields}
    at = path if isinstance(path, str) else dotted(path)
    return Problem(code=code, path=at, message=TEXTS[code].format(name=name, **made), name=str(name), available=known)


_NEAR = 0.65
"""Below it are words that only share some letters, such as nosuch and novu."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean x?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=_NEAR)
    return f"; did you mean {near[0]}?" if near else ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean x?` for the nearest known word, or the known words if they are few, or nothing."""
    words = sorted(set(known))
    return nearest(word, words) or (f"; known: {', '.join(words)}" if 0 < len(words) <= 8 else "")


def noun(value: object) -> str:
    """Name the type of a value in the words of YAML."""
    if value is None:
        return "empty"
    names = {bool: "true or false", int: "a number", float: "a decimal number", str: "text", dict: "a mapping"}
    return names.get(type(value), "a list" if isinstance(value, list | tuple) else type(value).__name__)


_WORD = re.compile(r"[A-Za-z0-9_-]+")
_SHORTEST = 4
"""Characters of a value from a variable that is hidden inside of other text."""


def dotted(path: Iterable[str | int]) -> str:
    """Write `("alerts", "late", "key", 0)` as `alerts.late.key[0]`; odd keys in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _WORD.fullmatch(part) else repr(part))
    return text


@dataclass(slots=True)
class Places:
    """Where the values of a configuration are in its files.

    `lines`: path -> file and line. `scalars`: path -> a value as the file has it, and its text after `${NAME}` was
    replaced; only of values for which the two, or the text and the value, differ.
    """

    file: str = ""
    lines: dict[str, tuple[str, int]] = field(default_factory=dict, repr=False)
    scalars: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def line(self, path: str) -> tuple[str, int | None]:
        """Return file and line of a path, or of the nearest path around it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.file, None

    def problem(self, code: str, path: str | Path = "", **fields: Any) -> Problem:
        """Make a problem with its place."""
        return self.located(problem(code, path, **fields))

    def located(self, found: Problem) -> Problem:
        """Return the problem with its file and line.

        A value from the environment may be a secret at the wrong place: the text shows the reference in its stead.
        """
        if found.file:
            return found
        file, line = self.line(found.path)
        source, text = self.scalars.get(found.path, ("", ""))
        if text and text != source:
            message = found.message.replace(repr(text), source)
            # A shorter text is not searched for: it would be found in other words.
            message = message.replace(text, source) if len(text) >= _SHORTEST else message
            message += "" if source in message else f" ({source})"
            found = replace(found, message=message, name=source if found.name == text else found.name)
        return replace(found, file=file, line=line)

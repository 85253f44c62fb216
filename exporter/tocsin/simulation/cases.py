"""Files of tests: what they may hold, read strictly, with every problem at once.

`docs/testing.md` describes them. `schema()` is their JSON Schema.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString

from pydantic import Field, field_validator, model_validator

from tocsin.config.document import Document, parse
from tocsin.config.loading import text_of
from tocsin.config.problems import noun
from tocsin.config.schema import DIALECT, REFERENCE, section, with_references
from tocsin.config.validation import validate
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.settings import Duration, Settings, duration_text, invalid
from tocsin.silences import MatchersError
from tocsin.silences import parse as parse_matchers

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When tests begin, unless they say otherwise: a Thursday."""

Rows = str | list[dict[str, Any]]
"""A table as text, or a list of mappings."""


AnyText = Annotated[str, Field(json_schema_extra={"type": ["string", "number", "boolean"]})]
"""Text, also where YAML would read a number."""


Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AnswerSettings(Settings):
    """How a receiver answers."""

    status: int | Literal["timeout", "refused", "killed"] = 200
    """A status of HTTP; for any type of channel it means what it means for a webhook."""
    retry_after: Duration | None = None
    """How long the receiver asks to wait."""
    takes: Duration = 0.0
    """How long the answer takes."""


Answers = int | Literal["timeout", "refused", "killed"] | AnswerSettings


class SilenceSettings(Settings):
    """A silence that begins."""

    matchers: str
    """The labels whose notifications it holds back, in Alertmanager's syntax."""
    lasts: Annotated[Duration, Field(alias="for", gt=0)]
    """How long it lasts, unless it is ended before."""

    @field_validator("matchers")
    @classmethod
    def _can_be_parsed(cls, matchers: str) -> str:
        try:
            parse_matchers(matchers)
        except MatchersError as error:
            raise invalid("matchers", "{why}", why=str(error)) from None
        return matchers


_LONGEST = 400 * 86400
"""Seconds. A year takes 20 s of work."""


class Expected(Settings):
    """A notification. Only what is set is compared; of mappings, only the keys that are set."""

    kind: Literal["fired", "updated", "resolved", "repeated", "event"] | None = None
    """What happened."""
    alert: str | None = None
    """The name of the alert."""
    at: Duration | None = None
    """When it was sent, from the start of the test."""
    labels: dict[str, AnyText] = Field(default_factory=dict)
    """Labels of the row."""
    annotations: dict[str, AnyText] = Field(default_factory=dict)
    """Annotations, rendered."""
    envelope: dict[str, Any] = Field(default_factory=dict)
    """Other parts of the notification: see docs/envelope.md."""
    request: dict[str, Any] = Field(default_factory=dict)
    """What is sent, as the channel shows it: of a webhook `method`, `url`, `headers` and `body`; of mail `to`,
    `subject` and `text`. A secret in it is `<secret>`."""


class ExpectedNotification(Expected):
    """A notification that a receiver accepts."""

    recipients: list[str] | None = None
    """Everyone it goes to, in any order, where the channel has recipients."""
    attempts: Annotated[int, Field(ge=1)] | None = None
    """With which attempt it was accepted."""
    named: str | None = Field(default=None, alias="as")
    """A name for its id."""
    same_id_as: str | None = None
    """The name of the id that it has."""


class ExpectedDeadLetter(Expected):
    """A notification that is given up."""

    reason: Reason | None = None
    """Why: `exhausted`, `expired`, `rejected`, ..."""


class Step(Settings):
    """A moment of a test. First things happen, in the order of these keys; then what is expected is compared."""

    at: Duration
    """Time since the start of the test, at most 400 days. Steps are in order."""
    receivers: dict[str, Answers | list[Answers]] = Field(default_factory=dict)
    """Channel -> how its receiver answers from now on. A list is for the next requests, one each;
    those after it are accepted."""
    sources: dict[str, Literal["down", "up", "up_without_history"]] = Field(default_factory=dict)
    """Source -> whether it can be reached. `up_without_history`: it can, and has forgotten what happened before."""
    silences: dict[str, SilenceSettings | Literal["ended"]] = Field(default_factory=dict)
    """Name -> a silence that begins, or `ended`: it ends before its time. One that holds back nothing fails the
    test."""
    tocsin: Literal["stopped", "started", "restarted", "killed"] | None = None
    """What happens to the process. `killed`: it ends at once, and starts again."""
    insert: dict[str, Rows] = Field(default_factory=dict)
    """Alert or relation -> rows that appear."""
    update: dict[str, Rows] = Field(default_factory=dict)
    """Alert or relation -> rows that change: columns of their key, and those that have another value now."""
    delete: dict[str, Rows] = Field(default_factory=dict)
    """Alert or relation -> rows that are gone: all that have these values."""
    rows: dict[str, Rows] = Field(default_factory=dict)
    """Alert or relation -> all rows that are there now."""
    events: dict[str, Rows] = Field(default_factory=dict)
    """Alert on events -> events that happen."""
    exp_series: dict[str, float | str] = Field(default_factory=dict, min_length=1)
    """Series -> value, as `/metrics` has them. All series of the gauges that are named; `name: none` for no series."""
    exp_notifications: dict[str, list[ExpectedNotification]] = Field(default_factory=dict, min_length=1)
    """Channel -> everything that its receiver accepted since the step that expected something of it before, in any
    order."""
    exp_none: list[str] | str = Field(default_factory=list, min_length=1)
    """Channels whose receivers accepted nothing since the step that expected something of them before; `all`: those
    that the alerts of the test notify, without those under `exp_notifications`."""
    exp_dead_letters: dict[str, list[ExpectedDeadLetter]] = Field(default_factory=dict, min_length=1)
    """Channel -> everything that was given up until now, in any order."""

    @field_validator("at")
    @classmethod
    def _is_soon(cls, at: float) -> float:
        if at > _LONGEST:
            raise invalid("too_late", "must be at most {longest}", longest=duration_text(_LONGEST))
        return at

    @model_validator(mode="after")
    def _expects_something_or_nothing(self) -> "Step":
        for channel in self.silent or ():
            if channel in self.exp_notifications:
                raise invalid("expected_twice", "{name} is under exp_notifications, too", "exp_none", name=channel)
        return self

    @field_validator("receivers")
    @classmethod
    def _have_statuses(cls, receivers: dict[str, Answers | list[Answers]]) -> dict[str, Answers | list[Answers]]:
        for channel, answers in receivers.items():
            for answer in answers if isinstance(answers, list) else [answers]:
                status = answer.status if isinstance(answer, AnswerSettings) else answer
                if isinstance(status, int) and not 100 <= status <= 599:
                    raise invalid("status", "{status} is not a status of HTTP, 100 to 599", channel, status=status)
        return receivers

    @property
    def silent(self) -> list[str] | None:
        """The channels in `exp_none`; None: all."""
        if self.exp_none == "all":
            return None
        return [self.exp_none] if isinstance(self.exp_none, str) else self.exp_none

    @property
    def expects(self) -> bool:
        """Whether anything is compared."""
        return bool(self.exp_series or self.exp_notifications or self.exp_none or self.exp_dead_letters)


class Case(Settings):
    """A test."""

    name: str
    """What is tested."""
    tolerance: Tolerance | None = None
    """How far values of series may be from what is expected. Default: that of the file."""
    rows: dict[str, Rows] = Field(default_factory=dict)
    """Alert or relation -> rows that are there before Tocsin starts for the first time."""
    types: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Alert or relation -> column -> type of PostgreSQL, where it is not to be seen in the values."""
    timeline: Annotated[list[Step], Field(min_length=1)]
    """What happens, and what is expected."""

    @model_validator(mode="after")
    def _is_a_test(self) -> "Case":
        before = 0.0
        for number, step in enumerate(self.timeline):
            if step.at < before:
                text: LiteralString = "{time} is before the step above, which is at {before}"
                times = {"time": duration_text(step.at), "before": duration_text(before)}
                raise invalid("not_in_order", text, "timeline", number, "at", **times)
            before = step.at
        if not any(step.expects for step in self.timeline):
            raise invalid("expects_nothing", "expects nothing; add exp_series, exp_notifications or exp_none")
        return self


class CaseFile(Settings):
    """A file of tests of one configuration."""

    config: str
    """The configuration, relative to this file."""
    environment: dict[str, AnyText] = Field(default_factory=dict)
    """Environment variables that the configuration refers to, in place of those that are set."""
    secret_files: dict[str, str] = Field(default_factory=dict)
    """Path -> content, in place of files with secrets that the configuration refers to."""
    start: datetime = START
    """When the tests begin."""
    tolerance: Tolerance = 0.0
    """How far values of series may be from what is expected."""
    tests: Annotated[list[Case], Field(min_length=1)]
    """The tests. Each begins with an empty ledger."""

    @field_validator("start", mode="before")
    @classmethod
    def _with_zone(cls, start: Any) -> Any:
        if isinstance(start, str) and not re.search(r"(Z|[-+]\d\d:?\d\d)$", start.strip()):
            raise invalid("no_zone", "must be a time with a zone, as in 2026-01-01T00:00:00Z")
        return start

    @field_validator("tests")
    @classmethod
    def _differ(cls, tests: list[Case]) -> list[Case]:
        seen: set[str] = set()
        for number, case in enumerate(tests):
            if case.name in seen:
                raise invalid("same_name", "another test has the name {name}", number, "name", name=repr(case.name))
            seen.add(case.name)
        return tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests:
    """A file of tests that was read."""

    path: Path
    settings: CaseFile
    document: Document

    def line(self, at: str) -> int | None:
        """The line of a path such as `tests[0].timeline[1].exp_series`."""
        return self.document.places.line(at)[1]

    @property
    def config(self) -> Path:
        """The path of the configuration."""
        return self.path.parent / self.settings.config


def read(path: Path, environ: Mapping[str, str] | None = None) -> Tests:
    """Read a file of tests. `environ`: variables in place of those that are set. Raises ConfigError with everything
    that is wrong with it."""
    if path.is_dir():
        raise ConfigError([_refused(path, f"is a folder; name the files in it, as in {path / '*_test.yaml'}")])
    text = text_of(path)
    if isinstance(text, Problem):
        raise ConfigError([text])
    document = parse(text, str(path), os.environ if environ is None else environ)
    found = document.data.keys() if isinstance(document.data, dict) else ()
    if "tests" not in found and "sources" in found:
        text = f"this is a configuration; name a file of tests, which has `config: {path.name}` and `tests`"
        raise ConfigError([_refused(path, text)])
    if {"rule_files", "evaluation_interval"} & {*found}:
        raise ConfigError(
            [_refused(path, "this is a file for promtool; docs/testing.md says what is written here instead")]
        )
    if document.data is None and not document.problems:
        document.report("empty_file")
    elif not isinstance(document.data, dict) and not document.problems:
        document.report("wrong_type", wanted="a mapping of config and tests", found=noun(document.data))
    if document.problems:
        raise ConfigError(document.problems)
    settings, problems = validate(CaseFile, document.data, "", document.places)
    if settings is None or problems:
        raise ConfigError(problems)
    return Tests(path=path, settings=settings, document=document)


def _refused(path: Path, text: str) -> Problem:
    return Problem(code="no_tests", file=str(path), message=text)


def schema() -> dict[str, Any]:
    """The JSON Schema of files of tests."""
    node = {"title": "Tests of alerts", **with_references(section(CaseFile))}
    return {"$schema": DIALECT, **node, "$defs": {"reference": REFERENCE}}

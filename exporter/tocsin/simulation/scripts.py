"""A test put together with its configuration: names that exist, rows of one type, and the alerts that take part."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tocsin.alert import RowAlert
from tocsin.app import build
from tocsin.config import ChannelConfig, Config
from tocsin.config.problems import dotted, suggestion
from tocsin.errors import ConfigError, Problem
from tocsin.model import Row
from tocsin.silences import parse
from tocsin.simulation.cases import Answers, AnswerSettings, Case, Rows, Step, Tests
from tocsin.simulation.comparing import SeriesError, moment, series, wanted
from tocsin.simulation.receivers import Answer
from tocsin.simulation.tables import Cell, TableError, Types, Written, fields, parsed

_CHANGES = ("rows", "insert", "update", "delete")
"""Parts of a step with rows, in the order in which they happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Rows that a step writes for an alert."""

    alert: str
    what: str
    """One of `_CHANGES`."""
    rows: Sequence[Mapping[str, str | None]]
    place: str


class Script:
    """What a test does. Raises ConfigError with everything that does not fit its configuration."""

    def __init__(self, tests: Tests, number: int, config: Config) -> None:
        self.case: Case = tests.settings.tests[number]
        self.place = f"tests[{number}]"
        self.types: dict[str, Types] = {}
        """By alert."""
        self._tests = tests
        self._config = config
        self._problems: list[Problem] = []
        self._written: dict[str, list[tuple[str, str, list[str], list[dict[str, Cell]]]]] = {}
        for what, name, rows, place in self._rows():
            self._read(what, name, rows, place)
        self._check_names()
        self._find_types()
        self.changes = self._changes()
        if not self._problems and not self.alerts:
            self._report(self.place, "nothing happens; add rows with insert, or events")
        if self._problems:
            located = [self._located(one) for one in self._problems]
            raise ConfigError(sorted(located, key=lambda one: one.line or 0))

    @property
    def alerts(self) -> list[str]:
        """The alerts that take part: those with rows or events, and those on the same relations."""
        events = [name for step in self.case.timeline for name in step.events]
        found = {name: self._config.row_alerts[name] for name in self._written}
        shared = {(alert.source, alert.subject) for alert in found.values()}
        rows = [name for name, one in self._config.row_alerts.items() if (one.source, one.subject) in shared]
        return [name for name in self._config.alerts if name in rows or name in events]

    @property
    def _channels(self) -> dict[str, ChannelConfig]:
        """The channels that these alerts notify."""
        channels = self._config.channels.items()
        return {name: one for name, one in channels if not one.routes.keys().isdisjoint(self.alerts)}

    def step(self, number: int) -> str:
        """The place of a step."""
        return f"{self.place}.timeline[{number}]"

    def _located(self, found: Problem) -> Problem:
        return self._tests.document.places.located(found)

    def _report(self, path: str, text: str) -> None:
        self._problems.append(Problem(code="test", path=path, message=text))

    @property
    def first(self) -> set[str]:
        """The places of rows that are there before Tocsin starts."""
        return {below(f"{self.place}.rows", name) for name in self.case.rows}

    # Rows.

    def _rows(self) -> Iterator[tuple[str, str, Rows, str]]:
        for name, rows in self.case.rows.items():
            yield "rows", name, rows, below(f"{self.place}.rows", name)
        for number, step in enumerate(self.case.timeline):
            for what in _CHANGES:
                for name, rows in getattr(step, what).items():
                    yield what, name, rows, below(f"{self.step(number)}.{what}", name)

    def _read(self, what: str, name: str, rows: Rows, place: str) -> None:
        alert = self._watching(name, place)
        if alert is None:
            return
        try:
            names, read = parsed(rows) if isinstance(rows, str) else ([], [dict(row) for row in rows])
        except TableError as error:
            self._report(place, str(error))
            return
        if not read and what != "rows":
            self._report(place, "there are no rows")
        self._written.setdefault(alert.name, []).append((what, place, names, read))

    def _watching(self, name: str, place: str) -> RowAlert | None:
        """The alert that is named, or the first on the relation that is."""
        alerts = self._config.row_alerts
        relations = {alert.subject.relation or alert.subject.topic: alert for alert in reversed(alerts.values())}
        found = alerts.get(name) or relations.get(name)
        if found is None:
            if name in self._config.event_alerts:
                self._report(place, "this alert is on events; write them under events")
            else:
                self._report(place, f"there is no alert {name!r}{suggestion(name, alerts)}")
            return None
        # Alerts that share a relation share its rows.
        return next(one for one in alerts.values() if (one.source, one.subject) == (found.source, found.subject))

    def _find_types(self) -> None:
        given: dict[str, Mapping[str, str]] = {}
        for name, types in self.case.types.items():
            place = below(f"{self.place}.types", name)
            if (alert := self._watching(name, place)) is not None:
                given[alert.name] = types
                if alert.name not in self._written:
                    self._report(place, "the test has no rows of it")
        for name, written in self._written.items():
            names = dict.fromkeys(name for _, _, names, _ in written for name in names)
            try:
                self.types[name] = Types(names, [row for *_, rows in written for row in rows], given.get(name, {}))
            except TableError as error:
                self._report(below(f"{self.place}.types", name), str(error))

    def _changes(self) -> dict[str, Change]:
        """The changes by their place."""
        changes = {}
        for name, written in self._written.items():
            if (types := self.types.get(name)) is None:
                continue
            for what, place, _, rows in written:
                key = self._config.row_alerts[name].key
                if what == "update":
                    self._check_update(place, key, rows)
                made = [types.texts(row) for row in rows]
                changes[place] = Change(alert=name, what=what, rows=made, place=place)
        return changes

    def _check_update(self, place: str, key: Sequence[str], rows: Sequence[Written]) -> None:
        if not key:
            self._report(place, "the alert has no key, so no row can be updated; use delete and insert")
        elif not all(any(name in row for name in key) for row in rows):
            self._report(place, f"name the row to update by its key: {', '.join(key)}")

    def events(self, rows: Rows) -> list[dict[str, Cell]]:
        """The fields of events. Those of a table have the types that their texts look like."""
        return [dict(row) for row in rows] if not isinstance(rows, str) else fields(rows)

    # Names.

    def _check_names(self) -> None:
        for number, step in enumerate(self.case.timeline):
            self._check_happening(step, self.step(number))
            self._check_expected(step, self.step(number))
        self._check_ids()
        self._check_process()
        self._check_silences()

    def _check_happening(self, step: Step, place: str) -> None:
        config, channels = self._config, self._channels
        sources = {config.alerts[name].source for name in self.alerts}
        for name in step.sources:
            self._check_used(below(f"{place}.sources", name), "source", name, sources)
        for name, answers in step.receivers.items():
            at = below(f"{place}.receivers", name)
            self._check_used(at, "channel", name, channels)
            if not isinstance(answers, list) and answer(answers).killed:
                self._report(at, "is for one request; write it as a list: [killed]")
        for name, rows in step.events.items():
            at = below(f"{place}.events", name)
            if name in config.row_alerts:
                self._report(at, "this alert is on rows; write them under insert")
            else:
                self._check(at, "alert on events", name, config.event_alerts)
            try:
                if not self.events(rows):
                    self._report(at, "there are no events")
            except TableError as error:
                self._report(at, str(error))

    def _check_expected(self, step: Step, place: str) -> None:
        channels = self._config.channels
        for what in ("exp_notifications", "exp_dead_letters"):
            for name, expected in getattr(step, what).items():
                at = below(f"{place}.{what}", name)
                if self._check(at, "channel", name, channels):
                    self._check_level(at, what, name)
                for i, one in enumerate(expected):
                    if one.alert is not None:
                        self._check(f"{at}[{i}].alert", "alert", one.alert, self._config.alerts)
        for name in step.silent or ():
            self._check(f"{place}.exp_none", "channel", name, channels)
        self._check_series(place, step.exp_series)

    def _check_ids(self) -> None:
        """Check that each name of an id is given once, before or in the same list."""
        known: set[str] = set()
        for number, step in enumerate(self.case.timeline):
            for channel, expected in step.exp_notifications.items():
                place = below(f"{self.step(number)}.exp_notifications", channel)
                for i, one in enumerate(expected):
                    if one.named in known:
                        self._report(f"{place}[{i}].as", f"another notification has the name {one.named!r}")
                    if one.named is not None:
                        known.add(one.named)
                for i, one in enumerate(expected):
                    if one.same_id_as is not None:
                        others = known - {one.named}
                        self._check(f"{place}[{i}].same_id_as", "id", one.same_id_as, dict.fromkeys(others))

    def _check_process(self) -> None:
        runs = True
        for number, step in enumerate(self.case.timeline):
            if step.tocsin is not None and runs == (step.tocsin == "started"):
                state = "runs already" if runs else "does not run"
                self._report(f"{self.step(number)}.tocsin", f"cannot be {step.tocsin}: it {state}")
            runs = runs if step.tocsin is None else step.tocsin != "stopped"

    def _check_silences(self) -> None:
        alerts = [self._config.alerts[name] for name in self.alerts]
        nothing_to_hold = all(build.is_level(one) for one in self._channels.values())
        labels = {"alertname"}.union(*({*one.labels, *one.static_labels} for one in alerts))
        ends: dict[str, float] = {}
        for number, step in enumerate(self.case.timeline):
            for name, silence in step.silences.items():
                place = below(f"{self.step(number)}.silences", name)
                if isinstance(silence, str):
                    if self._check(place, "silence", name, ends) and ends[name] <= step.at:
                        self._report(place, f"it ended at {moment(ends[name])}")
                    ends[name] = step.at
                elif nothing_to_hold:
                    self._report(place, "no channel of this test is silenced: Alertmanager has silences of its own")
                elif name in ends:
                    self._report(place, "a silence before has this name; choose another one")
                else:
                    ends[name] = step.at + silence.lasts
                    for matcher in parse(silence.matchers).each:
                        self._check(f"{place}.matchers", "label", matcher.name, dict.fromkeys(labels))

    def _check(self, place: str, noun: str, name: str, known: Mapping[str, object]) -> bool:
        if name not in known:
            self._report(place, f"there is no {noun} {name!r}{suggestion(name, known)}")
        return name in known

    def _check_used(self, place: str, noun: str, name: str, used: Collection[str]) -> None:
        known: Mapping[str, object] = self._config.sources if noun == "source" else self._config.channels
        if self._check(place, noun, name, known) and name not in used:
            self._report(place, f"no alert of this test has the {noun} {name}")

    def _check_level(self, place: str, what: str, name: str) -> None:
        if what == "exp_dead_letters" and build.is_level(self._config.channels[name]):
            self._report(place, f"{name} has no dead letters: it is sent what fires now, again and again")

    def _check_series(self, place: str, expected: Mapping[str, float | str]) -> None:
        metrics = {alert.metric for alert in self._config.row_alerts.values() if alert.gauges}
        for text, value in expected.items():
            at = below(f"{place}.exp_series", text)
            try:
                name = series(text).name
                wanted(value)
            except SeriesError as error:
                self._report(at, str(error))
                continue
            if name not in metrics:
                self._report(at, f"no alert has the gauge {name!r}{suggestion(name, metrics)}")


def below(place: str, name: str) -> str:
    """The place of a name that a test has chosen."""
    return f"{place}.{dotted([name])}"


def answer(written: Answers) -> Answer:
    """The answer that is written."""
    settings = written if isinstance(written, AnswerSettings) else AnswerSettings(status=written)
    status = settings.status
    return Answer(
        status=status if isinstance(status, int) else None if status == "timeout" else 200,
        retry_after=settings.retry_after,
        takes=settings.takes,
        refused=status == "refused",
        killed=status == "killed",
    )


def applied(change: Change, types: Types, key: Sequence[str], rows: Sequence[Row]) -> list[Row]:
    """The rows after a change. Raises TableError for rows that are not there."""
    names = [column.name for column in types.columns]
    now = [dict(zip(names, row, strict=True)) for row in rows]
    match change.what:
        case "rows":
            now = [dict(row) for row in change.rows]
        case "insert":
            now += [dict(row) for row in change.rows]
        case "update":
            for row in change.rows:
                for one in _found(now, {name: row[name] for name in key if name in row}, "update"):
                    one.update(row)
        case "delete":
            for row in change.rows:
                gone = _found(now, row, "delete")
                now = [one for one in now if not any(one is other for other in gone)]
    return [types.row(row) for row in now]


def _found(
    rows: Sequence[dict[str, str | None]], wanted: Mapping[str, str | None], what: str
) -> list[dict[str, str | None]]:
    found = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    if not found:
        values = ", ".join(f"{name}={'NULL' if value is None else value}" for name, value in wanted.items())
        raise TableError(f"there is no row to {what} with {values}")
    return found

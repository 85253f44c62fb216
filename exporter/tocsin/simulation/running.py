"""Tests of alerts, run one after another."""

import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tocsin.channels.base import Delivered
from tocsin.config import Config, load
from tocsin.errors import ConfigError, Problem
from tocsin.faults import unexpected
from tocsin.settings import instead_of_files
from tocsin.silences import parse
from tocsin.simulation import virtual
from tocsin.simulation.cases import Expected, ExpectedNotification, Step, Tests, read
from tocsin.simulation.comparing import Difference, Mismatch, Seen, compared_series, matched, values
from tocsin.simulation.engine import Simulation, only
from tocsin.simulation.receivers import ACCEPTED, Receiver
from tocsin.simulation.scripts import Script, answer, applied, below
from tocsin.simulation.tables import TableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One thing that is not as expected."""

    line: int | None
    at: float | None
    """Seconds since the start of the test; None: it did not start."""
    what: str
    """What was compared, or what is wrong."""
    differences: Sequence[Difference] = ()
    mismatches: Sequence[Mismatch] = ()
    expected: Sequence[Expected] = ()
    notes: Sequence[str] = ()
    """What else is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a test, or of a file without one that could be run."""

    file: Path
    name: str
    line: int | None = None
    failures: Sequence[Failure] = ()
    problems: Sequence[Problem] = ()
    """Why it could not be run."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.failures and not self.problems


def run_file(path: Path, wanted: str = "") -> Iterator[Result]:
    """Run the tests of a file whose names contain `wanted`. What is wrong with the file is a result, too."""
    try:
        tests = read(path)
    except ConfigError as error:
        yield Result(file=path, name="the file", problems=error.problems)
        return
    numbers = [n for n, case in enumerate(tests.settings.tests) if wanted.lower() in case.name.lower()]
    if not numbers:
        return
    try:
        config = configuration(tests)
    except ConfigError as error:
        yield Result(file=path, name="the configuration", line=tests.line("config"), problems=error.problems)
        return
    for number in numbers:
        yield run_case(tests, number, config)


def configuration(tests: Tests) -> Config:
    """Load the configuration of tests. Raises ConfigError."""
    try:
        with instead_of_files(tests.settings.secret_files):
            return load(tests.config, {**os.environ, **tests.settings.environment})
    except ConfigError as error:
        raise ConfigError([_with_fix(tests, one) for one in error.problems]) from None


_FIXES = {
    "unset_variable": "; set it, for this test under `environment`",
    "unreadable_file": "; for this test, set its content under `secret_files`",
}


def _with_fix(tests: Tests, found: Problem) -> Problem:
    if found.code == "unreadable" and found.file == str(tests.config):
        text = f"{found.file}: {found.message}; the path is relative to this file"
        return replace(found, file=str(tests.path), path="config", line=tests.line("config"), message=text)
    return replace(found, message=found.message + _FIXES.get(found.code, ""))


def run_case(tests: Tests, number: int, config: Config) -> Result:
    """Run one test."""
    case, began = tests.settings.tests[number], time.perf_counter()
    line = tests.line(f"tests[{number}]")
    try:
        script = Script(tests, number, config)
        with tempfile.TemporaryDirectory(prefix="tocsin-test-") as folder:
            failures = virtual.run(_Run(tests, script, only(config, script.alerts), Path(folder)).run())
    except ConfigError as error:
        return Result(file=tests.path, name=case.name, line=line, problems=error.problems)
    except Exception as error:
        if os.environ.get("TOCSIN_DEBUG"):
            raise
        # The other tests run all the same.
        text = f"a defect of Tocsin: {unexpected(error)}. Please report it; TOCSIN_DEBUG=1 shows the traceback"
        defect = Problem(code="defect", file=str(tests.path), line=line, message=text)
        return Result(file=tests.path, name=case.name, line=line, problems=[defect])
    seconds = time.perf_counter() - began
    return Result(file=tests.path, name=case.name, line=line, failures=failures, seconds=seconds)


class _Run:
    """One test while it runs."""

    def __init__(self, tests: Tests, script: Script, config: Config, folder: Path) -> None:
        self._tests = tests
        self._script = script
        self._config = config
        self._folder = folder
        self._failures: list[Failure] = []
        self._compared: dict[str, int] = {}
        """Channel -> how many of the notifications that it accepted were compared."""
        self._ids: dict[str, str] = {}
        given = script.case.tolerance
        self._tolerance = tests.settings.tolerance if given is None else given

    async def run(self) -> list[Failure]:
        """Run it, and return what is not as expected."""
        start = self._tests.settings.start.timestamp()
        async with Simulation(self._config, self._folder, start=start) as simulation:
            self._simulation = simulation
            self._define()
            await simulation.begin()
            for number, step in enumerate(self._script.case.timeline):
                place = self._script.step(number)
                try:
                    await simulation.until(step.at)
                    await self._happen(step, place)
                    await simulation.settle()
                except TableError as error:
                    path = str(error.args[1]) if len(error.args) > 1 else place
                    self._fail(path, step, str(error.args[0]))
                    break
                if faults := simulation.faults():
                    self._fail(place, step, f"an alert does not work: {'; '.join(faults)}")
                    break
                await self._compare(step, place)
            else:
                self._compare_rest()
                await self._find_idle_silences()
        return self._failures

    def _fail(self, path: str, step: Step | None, what: str, **more: Sequence[object]) -> None:
        at = None if step is None else step.at
        self._failures.append(Failure(line=self._tests.line(path), at=at, what=what, **more))  # type: ignore[arg-type]

    # What happens.

    def _define(self) -> None:
        script = self._script
        first = {change.alert: change for change in script.changes.values() if change.place in script.first}
        for name, types in script.types.items():
            rows = [types.row(row) for row in first[name].rows] if name in first else []
            self._simulation.define(name, types.columns, rows)

    async def _happen(self, step: Step, place: str) -> None:
        simulation = self._simulation
        for name, answers in step.receivers.items():
            receiver = simulation.receivers[name]
            receiver.answer = ACCEPTED if isinstance(answers, list) else answer(answers)
            receiver.following = deque(map(answer, answers) if isinstance(answers, list) else ())
        for name, state in step.sources.items():
            if state == "up_without_history":
                simulation.forget(name)
            simulation.set_source(name, up=state != "down")
        for name, silence in step.silences.items():
            if isinstance(silence, str):
                await simulation.end_silence(name)
            else:
                await simulation.silence(name, parse(silence.matchers), silence.lasts)
        await self._operate(step.tocsin)
        for what in ("rows", "insert", "update", "delete"):
            for name in getattr(step, what):
                self._apply(below(f"{place}.{what}", name))
        for name, events in step.events.items():
            simulation.publish(name, self._script.events(events))

    def _apply(self, place: str) -> None:
        change = self._script.changes[place]
        relation = self._simulation.relation(change.alert)
        key = self._config.row_alerts[change.alert].key
        try:
            rows = applied(change, self._script.types[change.alert], key, relation.rows)
        except TableError as error:
            raise TableError(str(error), place) from None
        self._simulation.replace(change.alert, rows)

    async def _operate(self, what: str | None) -> None:
        simulation = self._simulation
        if what in ("stopped", "restarted"):
            await simulation.stop()
        if what == "killed":
            await simulation.kill()
        if what in ("started", "restarted", "killed") and not simulation.running:
            await simulation.begin()

    # What is expected.

    async def _compare(self, step: Step, place: str) -> None:
        simulation = self._simulation
        if step.exp_series:
            found = values(simulation.series())
            if wrong := compared_series(step.exp_series, found, self._tolerance):
                self._fail(f"{place}.exp_series", step, "series", differences=wrong)
        for name, expected in step.exp_notifications.items():
            self._compare_accepted(step, below(f"{place}.exp_notifications", name), name, expected)
        for name in simulation.receivers if step.silent is None else step.silent:
            self._compare_accepted(step, f"{place}.exp_none", name, [])
        for name, dead in step.exp_dead_letters.items():
            seen = await self._dead(name)
            _, mismatches = matched(dead, seen, self._ids)
            if mismatches:
                at = below(f"{place}.exp_dead_letters", name)
                notes = list(_trouble(simulation.receivers.get(name)))
                what = f"dead letters of {name}"
                self._fail(_first(at, mismatches), step, what, mismatches=mismatches, expected=dead, notes=notes)

    def _compare_accepted(self, step: Step, place: str, name: str, expected: Sequence[ExpectedNotification]) -> None:
        receiver = self._simulation.receivers.get(name)
        accepted = receiver.accepted if receiver else []
        seen = [Seen(attempt=one) for one in accepted[self._compared.get(name, 0) :]]
        self._compared[name] = len(accepted)
        # A name may be of the same list, so those that need one are matched later.
        free = [one for one in expected if one.same_id_as is None]
        for number, one in matched(free, seen, self._ids)[0].items():
            if (name_of_id := free[number].named) is not None:
                self._ids[name_of_id] = one.attempt.id
        _, mismatches = matched(expected, seen, self._ids)
        if mismatches:
            notes = list(_trouble(receiver)) if receiver else [f"no alert of this test notifies {name}"]
            what = f"notifications of {name}"
            self._fail(_first(place, mismatches), step, what, mismatches=mismatches, expected=expected, notes=notes)

    def _compare_rest(self) -> None:
        """What a channel accepted after the last step that expects something of it."""
        last = self._script.case.timeline[-1]
        for name, compared in self._compared.items():
            receiver = self._simulation.receivers.get(name)
            rest = receiver.accepted[compared:] if receiver else []
            if rest:
                mismatches = [Mismatch(number=None, seen=Seen(attempt=one)) for one in rest]
                what = f"notifications of {name} after the last step that expects something of it"
                self._fail(self._script.step(len(self._script.case.timeline) - 1), last, what, mismatches=mismatches)

    async def _find_idle_silences(self) -> None:
        """Silences that held nothing: what they are to show is not shown."""
        steps = enumerate(self._script.case.timeline)
        begun = {
            name: (below(f"{self._script.step(n)}.silences", name), step)
            for n, step in steps
            for name, one in step.silences.items()
            if not isinstance(one, str)
        }
        for silence in await self._simulation.idle_silences():
            place, step = begun[silence.id]
            end = silence.ends_at - self._tests.settings.start.timestamp()
            sent = [one for one in self._simulation.attempts if one.accepted and step.at <= one.at < end]
            titles = [f"sent meanwhile: {Seen(attempt=one).title}" for one in sent[:_SENT_SHOWN]]
            self._fail(place, step, f"the silence holds back nothing: {silence.matchers}", notes=titles or [_NOT_SENT])

    async def _dead(self, name: str) -> list[Seen]:
        records = await self._simulation.dead_letters(name)
        receiver = self._simulation.receivers.get(name)
        attempts = {one.id: one for one in receiver.attempts} if receiver else {}
        return [Seen(attempt=attempts[one.id], reason=one.reason) for one in records if one.id in attempts]


_SENT_SHOWN = 3
"""Notifications that are shown of those that a silence did not hold."""
_NOT_SENT = "nothing was to be sent meanwhile"


def _first(place: str, mismatches: Sequence[Mismatch]) -> str:
    """The place of the first expected notification that does not match."""
    numbers = [one.number for one in mismatches if one.number is not None]
    return f"{place}[{min(numbers)}]" if numbers else place


def _trouble(receiver: Receiver | None) -> Iterator[str]:
    """Why notifications were not accepted."""
    results = [one.result for one in receiver.attempts] if receiver else []
    failed = [one for one in results if one is not None and not isinstance(one, Delivered)]
    for why, count in Counter(f"{one.reason}: {one.detail}" for one in failed).items():
        yield f"{count} attempt{'' if count == 1 else 's'} failed: {why}"

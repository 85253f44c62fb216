"""Carries a plan out, with patience, beside others who do the same at the same time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tocsin_setup.errors import SetupError
from tocsin_setup.plan import Catalog, Outcome, Step, plan, unfinished
from tocsin_setup.script import Item, Kind
from tocsin_setup.server import LostError, Patience, StatementError, Waiting
from tocsin_setup.trouble import Answer, Trouble, trouble

SETTLE = 3.0
"""Seconds that a view without a hash is given, in case somebody else is just making it."""

_OPTIONAL = frozenset({Kind.ROLE, Kind.GRANT})
_OVERTAKINGS = 8

_SYSTEM_WAIT = 15.0  # seconds; the port opens with the other one

Report = Callable[[Step], None]


class Session(Protocol):
    """What a run needs of `tocsin_setup.server.Server`; see there."""

    name: str

    def connect(self, within: float | None = None) -> None: ...

    def run(self, statement: str) -> None: ...

    def catalog(self, schema: str) -> Catalog: ...

    def offers_history(self) -> bool | None: ...


class _AgainError(Exception):
    """The plan no longer fits what there is."""


class Setup:
    """One run of the setup.

    Args:
        items: what is to be there.
        values: of the variables: `schema`, `broker` and the topics are named where something is waited for.
        server: a session as a normal role.
        patience: for how long to wait for whatever is not there yet.
        report: is told each item once, when it is as it should be.
    """

    def __init__(
        self, items: Sequence[Item], values: Mapping[str, str], server: Session, patience: Patience, report: Report
    ) -> None:
        self._items = items
        self._values = values
        self._server = server
        self._patience = patience
        self._report = report
        self._waiting = Waiting(patience)
        self._history: bool | None = None
        self._told: set[str] = set()
        self._overtaken = 0

    def check(self) -> bool:
        """Tell what `run` would do and do nothing; returns whether there is anything to do."""
        steps = self._planned(self._look(), history=self._server.offers_history() is True)
        for step in steps:
            self._tell(step)
        quiet = {Outcome.UNCHANGED, Outcome.SKIPPED, Outcome.GRANTED}
        return any(step.outcome not in quiet for step in steps)

    def run(self) -> None:
        """Do what is to be done.

        Raises:
            SetupError: something cannot be done, or was not there in time.
        """
        done = False
        while not done:
            try:
                self._pass()
                done = True
            except _AgainError:
                continue
            except LostError as error:
                self._waiting.on(f"Materialize at {self._server.name}", str(error))
                self._server.connect()

    def _pass(self) -> None:
        if self._history is None:
            self._history = self._server.offers_history() is not False
        refused: set[str] = set()
        for step in self._planned(self._look(), history=self._history):
            if step.item.kind is Kind.GRANT and refused:
                self._tell(_skipped(step, f"there is no role {', '.join(refused)}"))
                continue
            try:
                self._carry_out(step)
            except StatementError as error:
                if step.item.kind is Kind.ROLE:
                    refused.add(step.item.name)
                self._tell(_skipped(step, str(error)))
            else:
                self._tell(step)

    def _look(self) -> Catalog:
        schema = self._values["schema"]
        catalog = self._server.catalog(schema)
        until = self._patience.monotonic() + SETTLE
        while not self._told and unfinished(self._items, catalog) and self._patience.monotonic() < until:
            self._patience.sleep(0.2)
            catalog = self._server.catalog(schema)
        return catalog

    def _planned(self, catalog: Catalog, *, history: bool) -> tuple[Step, ...]:
        return plan(self._items, catalog, history=history)

    def _carry_out(self, step: Step) -> None:
        """Run its statements. A StatementError that comes out of here is for an item that may be missing."""
        for statement in step.statements:
            while not self._done(step, statement):
                pass
        if step.marks is None:
            return
        try:
            self._server.run(step.marks)
        except StatementError as error:
            meaning = trouble(step.item, error.answer)
            if meaning is Trouble.OVERTAKEN:
                raise self._again(step, error) from None
            if step.item.kind.replaceable:
                # Without its hash it would be replaced in every run.
                raise self._failed(step, error.answer) from None

    def _done(self, step: Step, statement: str) -> bool:
        try:
            self._server.run(statement)
        except StatementError as error:
            meaning = trouble(step.item, error.answer)
            if meaning is Trouble.TOPIC_MISSING:
                topic = self._topic(step.item)
                self._waiting.on(f"topic {topic}", "the broker does not have it yet; the producer creates it")
                return False
            if meaning is Trouble.BROKER_AWAY:
                self._waiting.on(f"the broker {self._values['broker']}", str(error))
                return False
            if meaning is Trouble.NO_HISTORY and self._history:
                self._history = False
                raise _AgainError from None
            if meaning is Trouble.OVERTAKEN:
                raise self._again(step, error) from None
            if self._may_fail(step, statement, meaning):
                raise
            raise self._failed(step, error.answer) from None
        return True

    def _may_fail(self, step: Step, statement: str, meaning: Trouble) -> bool:
        if statement.startswith("ALTER MATERIALIZED VIEW") or step.item.kind is Kind.SESSION:
            return True
        return meaning is Trouble.REFUSED and step.item.kind in _OPTIONAL

    def _again(self, step: Step, error: StatementError) -> Exception:
        self._overtaken += 1
        if self._overtaken > _OVERTAKINGS:
            return self._failed(step, error.answer)
        self._patience.sleep(0.1 * self._overtaken)
        return _AgainError()

    def _failed(self, step: Step, answer: Answer) -> SetupError:
        remedy = ""
        if trouble(step.item, answer) is Trouble.IN_USE:
            remedy = ". Drop what reads it, or choose another --schema; then run this again"
        elif step.item.kind is Kind.CLUSTER:
            remedy = ". Name a cluster that is there with --cluster, or a size that the server has with --cluster-size"
        return SetupError(f"{step.item.place}: {step.item}: {answer}{remedy}")

    def _topic(self, item: Item) -> str:
        topics = (value for name, value in self._values.items() if name.endswith("_topic"))
        return next((topic for topic in topics if f"'{topic}'" in item.create), "of the source")

    def _tell(self, step: Step) -> None:
        told = f"{step.item.kind} {step.item.name}"
        if told not in self._told and step.item.kind is not Kind.SESSION:
            self._told.add(told)
            self._report(step)


def _skipped(step: Step, why: str) -> Step:
    return Step(item=step.item, outcome=Outcome.SKIPPED, why=why)


def switch_on(items: Sequence[Item], server: Session | None, report: Report, *, check: bool = False) -> None:
    """Run the settings of the system as mz_system. That they cannot be set is told, and nothing more: the rest works
    without them.

    Args:
        server: a session as mz_system; None where there is none.
    """
    settings = [item for item in items if item.kind is Kind.SETTING]
    why = "" if server else "no --system-dsn was given; it is for mz_system on port 6877"
    if server is not None and settings:
        try:
            server.connect(within=_SYSTEM_WAIT)
        except SetupError as error:
            why = str(error)
    for item in settings:
        report(_switched(item, server, check=check) if server and not why else _skipped_item(item, why))


def _switched(item: Item, server: Session, *, check: bool) -> Step:
    try:
        if server.offers_history():
            return Step(item=item, outcome=Outcome.UNCHANGED)
        if not check:
            server.run(item.create)
    except (StatementError, LostError) as error:
        return _skipped_item(item, str(error))
    return Step(item=item, outcome=Outcome.CHANGED, statements=(item.create,), why="switched on")


def _skipped_item(item: Item, why: str) -> Step:
    return Step(item=item, outcome=Outcome.SKIPPED, why=why)

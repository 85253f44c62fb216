"""The runner that brings the SQL into Materialize, against a server of which only the catalog matters."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.materialize.definitions import Definitions
from support.materialize.errors import ServerError
from tocsin_setup.apply import Setup
from tocsin_setup.plan import Catalog, Found, Outcome, Step
from tocsin_setup.script import Item, load, variables
from tocsin_setup.server import Patience, StatementError
from tocsin_setup.trouble import Answer

MATERIALIZE = Path(__file__).parents[3] / "materialize"
DEFAULTS = {one.name: one.default for one in variables(MATERIALIZE)}


def shipped(**other: str) -> tuple[Item, ...]:
    """What is shipped, with other values for some variables."""
    return load(MATERIALIZE, DEFAULTS | other)


@dataclass
class Refusal:
    """Statements that match are refused, so many times."""

    pattern: str
    answer: Answer
    times: float = float("inf")


class Fake(Definitions):
    """The catalog of a Materialize, and what may go wrong with it."""

    name = "fake:6875"

    def __init__(self, *, history: bool = True, tells: bool = True) -> None:
        super().__init__(history=history)
        self.tells = tells
        self.log: list[str] = []
        self.refusals: list[Refusal] = []
        self.before: Callable[[str], None] = lambda _: None
        self.connections = 0

    def connect(self, within: float | None = None) -> None:
        self.connections += 1

    def catalog(self, schema: str) -> Catalog:
        return Catalog(
            clusters=frozenset(self.clusters),
            roles=frozenset(self.roles),
            schemas=frozenset(self.schemas),
            objects={name: Found(kind=one.kind, comment=one.comment) for name, one in self.objects.items()},
        )

    def offers_history(self) -> bool | None:
        return self.history if self.tells else None

    def run(self, statement: str) -> None:
        self.before(statement)
        self.log.append(statement)
        for refusal in self.refusals:
            if refusal.times > 0 and re.search(refusal.pattern, statement):
                refusal.times -= 1
                raise StatementError(refusal.answer)
        try:
            super().run(statement)
        except ServerError as refused:
            raise StatementError(Answer(refused.message, refused.code, refused.detail or "")) from None


@dataclass
class Run:
    """What one run said and did."""

    outcomes: dict[str, Step] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def report(self, step: Step) -> None:
        assert step.item.name not in self.outcomes, "told twice"
        self.outcomes[step.item.name] = step

    def of(self, *outcomes: Outcome) -> set[str]:
        return {name for name, step in self.outcomes.items() if step.outcome in outcomes}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def prepared(fake: Fake, run: Run, **other: str) -> Setup:
    """A runner that waits no longer than ten minutes of a clock of its own."""
    clock = Clock()
    patience = Patience(say=run.lines.append, monotonic=clock.monotonic, sleep=clock.sleep, deadline=clock.now + 600)
    return Setup(shipped(**other), DEFAULTS | other, fake, patience, run.report)


def set_up(fake: Fake, **other: str) -> Run:
    """One run of it, as far as it goes."""
    run = Run()
    prepared(fake, run, **other).run()
    return run


def numbers(fake: Fake) -> dict[str, int]:
    """The number of each object: one that is made anew has another."""
    return {name: one.number for name, one in fake.objects.items()}


def content(fake: Fake) -> dict[str, object]:
    """All that counts of what a server has, without numbers."""
    return {name: (one.kind, one.reads, one.comment, one.rows, one.history) for name, one in fake.objects.items()} | {
        "": (fake.clusters, fake.roles, fake.schemas, fake.granted)
    }

"""Whether a key fires, why, and what happens next: the whole explanation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.envelope import labels_of
from tocsin.explain.explanation import Explanation, Life, RouteExplanation, Step, Timer, Verdict
from tocsin.explain.facts import Facts
from tocsin.explain.keys import candidate, shown
from tocsin.explain.lives import SHORT, life
from tocsin.explain.routes import explained
from tocsin.explain.words import counted, moment, pairs, sentence, silence_text, source_moment
from tocsin.exposition import AlertStatus, State
from tocsin.firing import Firing, Phase
from tocsin.ledger.base import Record
from tocsin.model import Columns, Kind, Transition
from tocsin.silences import first_match
from tocsin.templates import duration


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is true of the key: in one sentence, and more."""

    verdict: Verdict
    summary: str
    because: tuple[str, ...] = ()
    timer: Timer | None = None


def explain(facts: Facts) -> Explanation:
    """Explain a key of an alert."""
    newest = facts.notifications[-1].record if facts.notifications else None
    of = last_known(facts.alert.name, facts.columns, facts.firing, newest)
    name = _name(facts, of)
    judged = _judged(name, facts, newest)
    channels = {channel.name: channel for channel in facts.channels}
    lives = [life(one, channels[one.record.channel], facts.now) for one in facts.notifications]
    routes = [explained(channel, facts.view, of, facts.now) for channel in facts.channels]
    more = [*_source(facts, judged.because), *_unsent(facts, judged.verdict, routes, lives), *_silences(facts, of)]
    ended = newest if newest is not None and judged.verdict is Verdict.ABSENT and _ended(newest) else None
    return Explanation(
        alert=facts.alert.name,
        at=facts.now,
        fingerprint=facts.found.fingerprint,
        key=None if of is None else shown(candidate(of.fingerprint, of.columns, of.row), identifying(facts.alert)),
        verdict=judged.verdict,
        summary=f"{judged.summary}.",
        because=[*map(sentence, (*judged.because, *more))],
        source=facts.status,
        started_at=None if of is None else of.started_at / 1000,
        ended_at=None if ended is None else ended.at / 1000,
        timer=judged.timer,
        columns=() if of is None else of.columns,
        row=None if of is None else of.row,
        routes=routes,
        notifications=lives,
        next=[*_next(name, judged, lives, facts.status)],
        unknown=[*map(sentence, _unknown(facts))],
        nearest=facts.found.nearest,
    )


def identifying(alert: Alert) -> Sequence[str]:
    """The columns that identify a row of an alert; empty: all of them. The key of events only orders them."""
    return () if isinstance(alert, EventAlert) else alert.key


def last_known(alert: str, columns: Columns, firing: Firing | None, newest: Record | None) -> Transition | None:
    """The row of a key that is known last: the one that fires, or else that of the newest notification."""
    if firing is not None and firing.phase is not Phase.ABSENT:
        times = firing.started_at, firing.started_at
        return Transition(alert, firing.fingerprint, Kind.FIRED, *times, columns, firing.row)
    return None if newest is None else newest.transition


def _ended(record: Record) -> bool:
    return record.kind in (Kind.RESOLVED, Kind.EVENT)


# The verdict.


def _name(facts: Facts, of: Transition | None) -> str:
    """The alert with the key, as it was asked about; by its columns if that was a fingerprint."""
    asked, columns = str(facts.asked), identifying(facts.alert)
    if of is not None and not facts.found.pairs:
        texts = shown(candidate(of.fingerprint, of.columns, of.row), columns)
        asked = " ".join(text or "null" for text in texts.values()) if columns else of.fingerprint[:SHORT]
    return f"{facts.alert.name} {asked}"


def _judged(name: str, facts: Facts, newest: Record | None) -> _Judged:
    alert = facts.alert
    if facts.found.fingerprint is None:
        return _unnamed(facts)
    if isinstance(alert, EventAlert):
        return _event(name, newest, facts)
    if facts.firing is not None and facts.firing.phase is not Phase.ABSENT:
        return _present(name, alert, facts)
    if not facts.rows_known:
        return _unknown_rows(name, newest, facts)
    return _missing(name, alert, newest, facts)


def _unknown_rows(name: str, newest: Record | None, facts: Facts) -> _Judged:
    because = ["the rows of the alert are not known"]
    if newest is not None:
        since = source_moment(newest.started_at, facts.now)
        ended = f"resolved at {source_moment(newest.at, facts.now)}" if _ended(newest) else "no end of it was notified"
        because.append(f"by its notifications it fired at {since}, and {ended}")
    return _Judged(Verdict.UNKNOWN, f"whether {name} fires is not known", tuple(because))


def _unnamed(facts: Facts) -> _Judged:
    if facts.found.matches > 1:
        text = f"{facts.found.matches:,} keys of {facts.alert.name} match {facts.asked}; name one of them"
        return _Judged(Verdict.SEVERAL, text)
    if not str(facts.asked):
        status = facts.status
        if isinstance(facts.alert, EventAlert):
            text = f"{facts.alert.name} is notified of events; name one by its columns or its fingerprint"
            return _Judged(Verdict.ALERT, text)
        if status is None:
            return _Judged(Verdict.ALERT, f"{facts.alert.name}: no key was named")
        fires = counted(status.firing, "key fires", "keys fire")
        pending = f", {status.pending:,} pending" if status.pending else ""
        return _Judged(Verdict.ALERT, f"{facts.alert.name}: {fires}{pending}")
    if isinstance(facts.alert, EventAlert):
        return _event(f"{facts.alert.name} {facts.asked}", None, facts)
    summary = f"{facts.alert.name} {facts.asked} does not fire, and no notification of it is kept"
    return _Judged(Verdict.UNSEEN, summary, (_history(facts),))


def _event(name: str, newest: Record | None, facts: Facts) -> _Judged:
    if newest is None:
        text = f"no event {name} is known"
        return _Judged(
            Verdict.UNSEEN, text, (_history(facts), "events that no channel is sent, and duplicates, are not kept")
        )
    return _Judged(
        Verdict.EVENT, f"{name} is an event of {source_moment(newest.at, facts.now)}, which is notified once"
    )


def _present(name: str, alert: RowAlert, facts: Facts) -> _Judged:
    firing, now = facts.firing, facts.now
    assert firing is not None
    since, marked = source_moment(firing.started_at, now), source_moment(firing.marked_at, now)
    if firing.phase is Phase.PENDING:
        due = firing.started_at / 1000 + alert.hold
        why = f"its row is in {_origin(alert)}, and has to stay for {duration(alert.hold)} (for)"
        summary = f"{name} does not fire yet: it is pending since {since} and fires at {moment(due, now)}"
        return _Judged(Verdict.PENDING, summary, (why,), Timer(name="for", due=due))
    if firing.phase is Phase.KEEPING:
        due = firing.marked_at / 1000 + alert.keep_firing_for
        why = f"its row left {_origin(alert)} at {marked}; keep_firing_for ({duration(alert.keep_firing_for)}) goes on"
        summary = f"{name} fires since {since}, and is only kept firing until {moment(due, now)}"
        return _Judged(Verdict.KEEPING, summary, (why,), Timer(name="keep_firing_for", due=due))
    timer = None
    if alert.repeat_interval:
        timer = Timer(name="repeat_interval", due=firing.marked_at / 1000 + alert.repeat_interval)
    return _Judged(
        Verdict.FIRING, f"{name} fires since {since}", (f"its row is in {_origin(alert)}{_as_of(facts)}",), timer
    )


def _missing(name: str, alert: RowAlert, newest: Record | None, facts: Facts) -> _Judged:
    which = f"with {pairs(facts.found.pairs)}" if facts.found.pairs else "of this key"
    why = f"no row {which} is in {_origin(alert)}{_as_of(facts)}"
    if newest is None:
        summary = f"{name} does not fire, and no notification of it is kept"
        return _Judged(Verdict.UNSEEN, summary, (why, _history(facts)))
    since = source_moment(newest.started_at, facts.now)
    if not _ended(newest):
        return _Judged(Verdict.ABSENT, f"{name} does not fire; it fired at {since}", (why, "no end of it was notified"))
    ended = f"it fired at {since} and resolved at {source_moment(newest.at, facts.now)}, when its row left the view"
    return _Judged(Verdict.ABSENT, f"{name} does not fire any more", (why, ended, *_replacement(newest, facts)))


def _replacement(newest: Record, facts: Facts) -> Iterator[str]:
    """Whether the row left when something happened to the source."""
    status = facts.status
    if status is None or status.last_error_at is None or abs(status.last_error_at - newest.at / 1000) > _SAME_TIME:
        return
    yield f"at about that time, this happened to the source: {status.last_error}"


_SAME_TIME = 30.0
"""Seconds between two things that have to do with each other."""


def _origin(alert: Alert) -> str:
    subject = alert.subject
    return subject.relation or subject.topic or "the result of the query"


def _as_of(facts: Facts) -> str:
    return "" if facts.frontier is None else f", as of {source_moment(facts.frontier, facts.now)}"


def _history(facts: Facts) -> str:
    return f"notifications are kept for {duration(facts.history)} after they were delivered (ledger.history)"


# The source.


def _source(facts: Facts, said: Sequence[str]) -> Iterator[str]:
    status = facts.status
    if facts.leader:
        yield f"{facts.leader} leads the alert and notifies; this process does not"
    if status is None:
        return
    yield from _state(status, facts.now)
    if (
        status.last_error
        and status.last_error_at is not None
        and not any(status.last_error in text for text in (status.message, status.doubt, *said))
    ):
        at = moment(status.last_error_at, facts.now)
        yield f"the last thing that happened to the source, at {at}: {status.last_error}"


_FROZEN = frozenset({State.STARTING, State.ERROR, State.STALE})
"""States in which the rows are not current."""


def _state(status: AlertStatus, now: float) -> Iterator[str]:
    stopped = "nothing fires, changes or resolves" if status.events is None else "no event is notified"
    frozen = f"{stopped} until that is over"
    match status.state:
        case State.STARTING:
            yield f"the alert is starting: {status.message or 'there is no complete snapshot yet'}; {frozen}"
        case State.ERROR:
            yield f"the alert is in error: {status.message}; {frozen}"
        case State.STALE:
            last = "" if status.last_progress is None else f" since {moment(status.last_progress, now)}"
            why = f": {status.message}" if status.message else ""
            yield f"the alert is stale: its source has made no progress{last}{why}; series are withdrawn, and {frozen}"
        case State.REFUSING:
            yield f"the source delivers only what is not a valid event: {status.message}"
    if status.state in _FROZEN:
        yield from _attempt(status, now)
    if status.doubt:
        yield f"the rows may be the wrong ones: {status.doubt}"
    if status.note:
        yield f"a part of the source does not work: {status.note}"


def _attempt(status: AlertStatus, now: float) -> Iterator[str]:
    """When a source that failed is tried again."""
    if status.next_attempt is not None:
        yield f"the next attempt is at {moment(status.next_attempt, now)}"
    elif status.state is State.ERROR:
        yield "an attempt is under way"


# What was not sent.


def _unsent(facts: Facts, verdict: Verdict, routes: list[RouteExplanation], lives: list[Life]) -> Iterator[str]:
    """Why there is no notification of a key that fires."""
    alert = facts.alert
    if verdict not in (Verdict.FIRING, Verdict.KEEPING) or lives or not isinstance(alert, RowAlert):
        return
    if not alert.notify:
        yield "the alert notifies no channel; its rows are gauges only"
    elif not alert.transition_channels:
        yield f"only outputs that are sent what fires now are notified: {', '.join(alert.notify)}"
    elif routes and all(one.when is not None and one.when.result is False for one in routes):
        yield "nothing was sent: the conditions of all channels are false for this row"
    elif alert.initial == "silent":
        yield "nothing was sent: it was there at the very first start, which initial: silent does not notify"
    else:
        yield "no notification of this episode is kept"


def _silences(facts: Facts, of: Transition | None) -> Iterator[str]:
    """Which silence holds back what is notified of the row."""
    labels = {} if of is None else labels_of(of.columns, of.row, facts.view)
    silence = first_match(facts.silences, {"alertname": facts.alert.name, **labels})
    if of is not None and silence is not None:
        yield f"notifications of it are held back by {silence_text(silence, facts.now)}"


# What happens next.


def _next(name: str, judged: _Judged, lives: list[Life], status: AlertStatus | None) -> Iterator[Step]:
    steps = [one.next for one in lives if one.next is not None]
    if (timer := judged.timer) is not None:
        what = {
            "for": f"{name} fires, if its row is still there",
            "keep_firing_for": f"{name} resolves, if its row is not back",
            "repeat_interval": f"{name} is notified again as repeated, if nothing else was notified meanwhile",
        }
        steps.append(Step(at=timer.due, text=what[timer.name]))
    elif judged.verdict is Verdict.FIRING:
        steps.append(Step(at=None, text=_resolves(status)))
    yield from sorted(steps, key=lambda step: (step.at is None, step.at or 0.0))


def _resolves(status: AlertStatus | None) -> str:
    if status is not None and status.state in _FROZEN:
        return "it resolves when the source works again and its row is not in the view"
    return "it resolves when its row leaves the view"


def _unknown(facts: Facts) -> Iterator[str]:
    if facts.running:
        return
    yield f"no process was asked: the rows are those of the ledger{_as_of(facts)}"
    yield "the state of the source and of the channels, and whether something is being sent, is not known"

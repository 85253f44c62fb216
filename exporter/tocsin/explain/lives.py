"""What became of a notification, what it waits for, and what happens to it next."""

from collections.abc import Iterator

from tocsin.errors import Reason
from tocsin.explain.explanation import Answer, Life, Step
from tocsin.explain.facts import ChannelFacts, NotificationFacts
from tocsin.explain.words import counted, moment, sentence, silence_text, source_moment
from tocsin.ledger.base import MOST_MERGED, SILENCED, Record, Status
from tocsin.silences.ending import came_and_went

SHORT = 12
"""Characters of an id in a sentence; the commands take them."""


def life(facts: NotificationFacts, channel: ChannelFacts, now: float) -> Life:
    """Explain a notification."""
    record = facts.record
    says, step = _pending(facts, channel, now) if _is_pending(record) else _over(facts, now)
    return Life(
        record=record,
        request=facts.request,
        request_error=facts.request_error,
        answers=[*_answers(facts)],
        says=[*map(sentence, says)],
        next=step,
    )


def _answers(facts: NotificationFacts) -> Iterator[Answer]:
    record = facts.record
    for number, one in enumerate(facts.attempts, 1):
        is_last = number == len(facts.attempts)
        outcome = "dead" if is_last and record.status is Status.DEAD else "failed"
        yield Answer(at=one.at, outcome=outcome, reason=one.reason, answer=one.detail)
    if record.status in (Status.DELIVERED, Status.DROPPED):
        yield Answer(at=record.settled_at, outcome=record.status, reason="", answer=_answer(record))
    elif record.status is Status.DEAD and not facts.attempts:
        yield Answer(at=record.settled_at, outcome="dead", reason=record.reason, answer=record.detail)


def _answer(record: Record) -> str:
    return record.detail if record.status is Status.DELIVERED else ""


# What is over.


def _over(facts: NotificationFacts, now: float) -> tuple[list[str], Step | None]:
    record = facts.record
    at = moment(record.settled_at or record.created_at, now)
    if record.status is Status.DELIVERED:
        tried = f" at attempt {len(facts.attempts) + 1}" if facts.attempts else ""
        answer = f"; the receiver answered: {record.detail}" if record.detail else ""
        return [f"delivered at {at}{tried}{answer}"], None
    if record.status is Status.DROPPED:
        if record.reason == SILENCED:
            return [f"dropped at {at}, when a silence ended: {record.detail}"], None
        why = f"; the last attempt failed: {_why(record)}" if record.reason else ""
        return [f"dropped at {at}, so it is not sent{why}"], None
    text = f"is not sent again by itself; fix the cause, then: tocsin outbox retry {record.id[:SHORT]}"
    return [f"given up on at {at}: {_why(record)}", *_hints(record), f"it {text}"], Step(
        at=None, text=f"{_named(record)} {text}"
    )


def _named(record: Record) -> str:
    return f"the {record.kind} to {record.channel}"


def _hints(record: Record) -> Iterator[str]:
    """What a reason means, where its name does not say it."""
    match record.reason:
        case Reason.REJECTED | Reason.NOT_FOUND | Reason.NOT_PROCESSED:
            yield "the receiver would refuse it again: the request or the receiver has to change"
        case Reason.TEMPLATE:
            yield "a template of the channel failed for this row, and nothing was sent"
        case Reason.NO_RECIPIENTS:
            yield "the row names no one to send it to, and nothing was sent"
        case Reason.EXHAUSTED:
            yield "it reached max_attempts"


def _why(record: Record) -> str:
    return ": ".join(part for part in (record.reason, record.detail) if part)


# What is pending.


def _is_pending(record: Record) -> bool:
    return record.status is Status.PENDING


def _pending(facts: NotificationFacts, channel: ChannelFacts, now: float) -> tuple[list[str], Step | None]:
    record = facts.record
    if record.silence is not None:
        return _silenced(facts, now)
    failed = _failed(record)
    if not channel.kind:
        text = f"the channel {record.channel} is not configured: it becomes a dead letter at the next start"
        return [*failed, text], Step(at=None, text=text)
    before = _before(facts)
    if before is not None:
        text = _blocked(record, before, facts, now)
        return [*failed, text], Step(at=None, text=f"{_named(record)} is sent after {before.id[:SHORT]}")
    at, waits = _waits(facts, channel, now)
    text = "is sent again" if record.attempts else "is sent"
    return [*failed, *waits], Step(at=at, text=f"{_named(record)} {text}")


def _silenced(facts: NotificationFacts, now: float) -> tuple[list[str], Step]:
    record, silence = facts.record, facts.silence
    held = record.detail if silence is None else f"by {silence_text(silence, now)}"
    at = None if silence is None else silence.ends_at
    return [f"held back {held}"], Step(at=at, text=f"the silence ends, and {_named(record)} {_at_the_end(facts)}")


def _at_the_end(facts: NotificationFacts) -> str:
    """What becomes of it when the silence ends."""
    seq = facts.record.seq
    if why := came_and_went(facts.held).get(seq):
        return f"is dropped: {why}"
    if seq in came_and_went(one._replace(goes_on=False) for one in facts.held):
        return "is sent if its row still fires then, and else dropped"
    return "is sent"


def _failed(record: Record) -> list[str]:
    if not record.reason:
        return []
    if not record.attempts:  # the receiver refuses everything, or asked to wait: that does not count
        return [f"the last attempt failed: {_why(record)}"]
    return [f"{counted(record.attempts, 'attempt', 'attempts')} failed, the last one for: {_why(record)}"]


def _before(facts: NotificationFacts) -> Record | None:
    """The notification that is sent first, and holds this one back."""
    record, first = facts.record, facts.line.first[0] if facts.line and facts.line.first else None
    if first is None or first.seq >= record.seq or (first.digest is not None and first.digest == record.digest):
        return None
    return first


def _blocked(record: Record, before: Record, facts: NotificationFacts, now: float) -> str:
    assert facts.line is not None
    ahead = sum(one.seq < record.seq for one in facts.line.first)
    same = "row" if record.ordering_key == record.fingerprint else "group or order"
    others = f", with {counted(ahead - 1, 'more', 'more')} between them" if ahead > 1 else ""
    when = f"; its next attempt is at {moment(before.not_before, now)}" if before.not_before > now else ""
    why = f", which fails for: {_why(before)}" if before.reason else ", which is not sent yet"
    about = "" if same == "row" else f" of {before.alert}"
    return (
        f"it waits behind {before.id[:SHORT]}, the {before.kind}{about} of {source_moment(before.at, now)}"
        f"{why}{when}{others}: notifications of the same {same} are sent in order"
    )


def _waits(facts: NotificationFacts, channel: ChannelFacts, now: float) -> tuple[float, list[str]]:
    """When it can be sent, and what for it waits until then."""
    record = facts.record
    at, waits = now, list[str]()
    if record.not_before > now:
        at = record.not_before
        if record.attempts or record.reason:
            waits.append(f"the next attempt is at {moment(at, now)}")
        elif record.digest is not None:
            size = sum(one.digest == record.digest for one in (facts.line.first if facts.line else ()))
            merged = f"with {counted(size - 1, 'other', 'others')}" if size > 1 else "for others of its group"
            merged += ", as many as one message takes" if size == MOST_MERGED else ""
            waits.append(f"it waits in a digest {merged}, which is sent at {moment(at, now)}")
        else:
            waits.append(f"it is sent at {moment(at, now)}")
    if channel.opens_in:
        at = max(at, now + channel.opens_in)
        held = "the rate limit of the channel" if channel.is_limited else f"the channel is {channel.state}"
        why = f" ({channel.message})" if channel.message and not channel.is_limited else ""
        waits.append(f"{held}{why}: it sends again at {moment(now + channel.opens_in, now)}")
    if not waits:
        unknown = channel.state is None
        waits.append("it is due; whether a process sends it is not known" if unknown else "it is sent now")
    return at, waits

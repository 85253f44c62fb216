"""What an answer of the channel means for notifications. No I/O, no clock."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tocsin.channels.base import Delivered, Paused, Rejected, Reschedule, Result, Retry
from tocsin.dispatch.policy import Policy
from tocsin.errors import Reason
from tocsin.ledger.base import Settlement, Status
from tocsin.model import Notification


def verdicts(
    together: Sequence[Notification], result: Result, policy: Policy, now: float, chance: Callable[[], float]
) -> list[Settlement]:
    """What is to be written of one attempt with notifications that go together: delivered, pending until one time, or
    dead.

    They are given up together, when the youngest of them has reached `max_attempts` or `max_age`: if the oldest were
    given up alone, the others would be another message or another request, which the receiver might take as new.
    """
    youngest = replace(
        together[0],
        attempts=min(one.attempts for one in together),
        created_at=max(one.created_at for one in together),
    )
    fate = _verdict(youngest, result, policy, now, chance)
    made = fate.attempts - youngest.attempts
    return [replace(fate, seq=one.seq, attempts=one.attempts + made) for one in together]


def _verdict(
    notification: Notification, result: Result, policy: Policy, now: float, chance: Callable[[], float]
) -> Settlement:
    settle = Settlement(seq=notification.seq, status=Status.PENDING, attempts=notification.attempts + 1, at=now)
    match result:
        case Delivered(note):
            return replace(settle, status=Status.DELIVERED, detail=note)
        case Paused(reason, detail):
            return replace(settle, attempts=notification.attempts, reason=reason, detail=detail)
        case Rejected(reason, detail):
            return replace(settle, status=Status.DEAD, reason=reason, detail=detail)
        case Retry(reason, detail, after, free):
            attempts = notification.attempts + (0 if free else 1)
            why = f"{reason}: {detail}"
            if policy.max_attempts is not None and attempts >= policy.max_attempts:
                detail = f"{attempts} attempts; the last: {why}"
                return replace(settle, status=Status.DEAD, reason=Reason.EXHAUSTED, detail=detail)
            if now - notification.created_at > policy.max_age:
                detail = f"too old to be news; the last: {why}"
                return replace(settle, status=Status.DEAD, reason=Reason.EXPIRED, detail=detail)
            if isinstance(result, Reschedule):
                wait = after or 0.0
            else:
                wait = policy.backoff.delay(notification.attempts, chance, at_least=after)
            return replace(settle, attempts=attempts, not_before=now + wait, reason=reason, detail=detail)

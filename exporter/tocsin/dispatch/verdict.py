"""What an answer of the channel means for a notification. No I/O, no clock."""

from collections.abc import Callable
from dataclasses import replace

from tocsin.channels import AskAgain, Delivered, Paused, Rejected, Result, Retry
from tocsin.dispatch.policy import Policy
from tocsin.errors import Reason
from tocsin.ledger import Settlement, Status
from tocsin.model import Notification


def verdict(
    notification: Notification, result: Result, policy: Policy, now: float, chance: Callable[[], float]
) -> Settlement:
    """What is to be written down of one attempt: delivered, pending until a time, or dead."""
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
            if isinstance(result, AskAgain):
                wait = after or 0.0
            else:
                wait = policy.backoff.delay(notification.attempts, chance, at_least=after)
            return replace(settle, attempts=attempts, not_before=now + wait, reason=reason, detail=detail)

"""What an error of librdkafka or a broker means for a notification."""

from tocsin.channels.base import Paused, Rejected, Result, Retry
from tocsin.errors import Reason
from tocsin.kafka import (
    ENDED,
    FINAL,
    FORBIDDEN,
    LOGIN_REFUSED,
    QUEUE_FULL,
    RESOLVE,
    TIMED_OUT,
    TOO_LARGE,
    TRANSPORT,
    Fault,
    Redact,
    Trouble,
)


def judged(error: Fault, topic: str, trouble: Trouble, timeout: float, redact: Redact) -> Result:
    """Return the result for a record that was not acknowledged although its topic exists.

    `trouble`: the connections of its producer. `redact`: removes secrets.
    """
    if trouble.fatal is not None and error.code() in ENDED:
        error = trouble.fatal  # the producer failed, and the record with it
    code, said = error.code(), redact(error.str())
    if code in FORBIDDEN:
        return Paused(Reason.UNAUTHORIZED, said if code in LOGIN_REFUSED else f"{topic}: {said}; {_RIGHT}")
    if code in TOO_LARGE:
        return Rejected(Reason.TOO_LARGE, f"{topic}: {said}; see max_bytes and the topic's max.message.bytes")
    if code in TIMED_OUT:
        if trouble.forbidden is not None:
            return Paused(Reason.UNAUTHORIZED, trouble.reason)
        if trouble.reason:
            return Retry(Reason.CONNECTION, trouble.reason)
        return Retry(Reason.TIMEOUT, f"{topic}: not acknowledged within {timeout:g} s")
    if code in FINAL:
        return Rejected(Reason.REJECTED, f"{topic}: {said}")
    if code in (TRANSPORT, RESOLVE):
        return Retry(Reason.CONNECTION, trouble.reason or said)
    if code == QUEUE_FULL:
        return Retry(Reason.CONNECTION, said, free=True)
    return Retry(Reason.SERVER_ERROR, f"{topic}: {said}")


_RIGHT = (
    "give the user the right to write there (WRITE on the topic; old brokers also need IDEMPOTENT_WRITE on the cluster)"
)

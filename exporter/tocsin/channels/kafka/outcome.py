"""What an error of librdkafka or of a broker means for a notification."""

from tocsin.channels import Paused, Rejected, Result, Retry
from tocsin.errors import Reason
from tocsin.kafka import FORBIDDEN, QUEUE_FULL, RESOLVE, TIMED_OUT, TOO_LARGE, TRANSPORT, UNKNOWN_TOPIC, Fault, Trouble

_FINAL = frozenset({-186, 17, 21, 32, 43, 44, 76, 87})
"""Refused for what the record or the topic is: an argument, the topic's name, acks, a timestamp, an old format, a
policy of the cluster, compression, a rule of the topic."""


def judged(error: Fault, topic: str, trouble: Trouble, timeout: float, said: str) -> Result:
    """The result for a record that is not known to be delivered. `trouble` knows about the connections; `said`: the
    library's words without secrets."""
    code = error.code()
    if code in FORBIDDEN:
        return Paused(Reason.UNAUTHORIZED, f"{topic}: {said}; give the user the right to write there")
    if code in UNKNOWN_TOPIC:
        return Retry(Reason.NOT_FOUND, f"there is no topic {topic}; create it, or set `create: true`")
    if code in TOO_LARGE:
        return Rejected(Reason.TOO_LARGE, f"{topic}: {said}; see max_bytes and the topic's max.message.bytes")
    if code in TIMED_OUT:
        if trouble.forbidden:
            return Paused(Reason.UNAUTHORIZED, trouble.reason)
        if trouble.reason:
            return Retry(Reason.CONNECTION, trouble.reason)
        return Retry(Reason.TIMEOUT, f"{topic}: not acknowledged within {timeout:g} s")
    if code in _FINAL:
        return Rejected(Reason.REJECTED, f"{topic}: {said}")
    if code in (TRANSPORT, RESOLVE, QUEUE_FULL):
        return Retry(Reason.CONNECTION, trouble.reason or said, free=code == QUEUE_FULL)
    return Retry(Reason.SERVER_ERROR, f"{topic}: {said}")

"""Send a schedule in time. The clock is an argument."""

import logging
from collections.abc import Callable, Iterable

from tocsin_producer.errors import EventRefusedError
from tocsin_producer.events import Event
from tocsin_producer.metrics import Metrics
from tocsin_producer.sinks import Sink

PULSE = 1.0
"""The longest time, in seconds, between two calls of `Sink.flush`."""

_FLUSH_EVERY = 256

_log = logging.getLogger(__name__)


def run(
    events: Iterable[Event],
    sink: Sink,
    *,
    metrics: Metrics,
    monotonic: Callable[[], float],
    wait: Callable[[float], bool],
) -> bool:
    """Send each event at its time; return whether the schedule ended, rather than the run being stopped.

    An event whose time has passed (the sink had no room, the machine slept) is sent at once, so the run catches up and
    leaves out nothing; `metrics.lag_seconds` shows the delay. The sink is flushed but not closed.

    Args:
        monotonic: seconds on a clock that never goes back.
        wait: waits up to that many seconds, less if the run is to stop, and returns whether it is;
            `threading.Event().wait` is one.

    Raises:
        SinkError: the sink cannot go on.
    """
    if wait(0):
        return False
    origin = monotonic()
    for number, event in enumerate(events, start=1):
        due = origin + event.at
        if due > monotonic():
            if _stopped_before(due, sink, monotonic, wait):
                return False
        elif number % _FLUSH_EVERY == 0:
            sink.flush()
            if wait(0):
                return False
        try:
            sink.send(event.topic, event.key, event.value)
        except EventRefusedError as error:
            metrics.errors[event.topic] += 1
            _log.warning("an event for %s was refused: %s", event.topic, error)
        else:
            metrics.sent[event.topic, event.kind] += 1
        metrics.lag_seconds = max(0.0, monotonic() - due)
    sink.flush()
    return True


def _stopped_before(due: float, sink: Sink, monotonic: Callable[[], float], wait: Callable[[float], bool]) -> bool:
    sink.flush()
    while (left := due - monotonic()) > 0:
        if wait(min(left, PULSE)):
            return True
        if left > PULSE:
            sink.flush()
    return False

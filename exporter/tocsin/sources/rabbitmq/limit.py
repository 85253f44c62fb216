"""The delivery limit of quorum queues: how near messages are to it, and how long to wait before reconnecting.

From RabbitMQ 4.0 on a quorum queue drops a message at its 21st return, or moves it to a dead-letter exchange. The end
of a connection returns every message that the connection holds, read or not. The only sign is the header
`x-delivery-count`.
"""

from collections.abc import Callable

from aiormq.abc import DeliveredMessage

from tocsin.sources.rabbitmq.messages import tag
from tocsin.sources.rabbitmq.settings import Config

_LIMIT = 20
"""Returns that RabbitMQ 4 allows by default."""
_NEAR = 10
"""Returns from which a message counts as near the limit, unless half of the limit is less."""
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 900.0
"""Seconds between two connections while a message is near the limit; they double with each further return."""


class Returns:
    """The unacknowledged messages that were returned often."""

    def __init__(self, config: Config, monotonic: Callable[[], float]) -> None:
        """`monotonic`: a clock in seconds that does not jump."""
        self._config = config
        self._monotonic = monotonic
        self._connected_at = float("-inf")
        self._counts: dict[int, int] = {}
        limit = config.queue_arguments.get("x-delivery-limit")
        known = isinstance(limit, int) and not isinstance(limit, bool)
        self._limit = int(limit) if known else _LIMIT  # type: ignore[arg-type]
        # None: the queue has no limit.
        self._near = None if self._limit < 0 else max(1, min(_NEAR, self._limit // 2))

    @property
    def highest(self) -> int:
        """The highest number of returns of an unacknowledged message near the limit; 0 if there is none."""
        return max(self._counts.values(), default=0)

    @property
    def near(self) -> int:
        """How many unacknowledged messages are near the limit."""
        return len(self._counts)

    @property
    def warning(self) -> str:
        """The warning about them; empty if there are none."""
        if not self._counts:
            return ""
        return (
            f"{self._config.display}: {self.near} messages of the queue {self._config.queue} were returned to it "
            f"{self._near} times or more, one of them {self.highest} times. From RabbitMQ 4.0 on a quorum queue drops "
            f"a message that is returned more than {self._limit} times, and logs nothing. Find out why "
            "connections end, and set the policy delivery-limit of the queue to -1"
        )

    def connected(self) -> None:
        """A new connection: unacknowledged messages are delivered again."""
        self._connected_at = self._monotonic()
        self._counts.clear()

    def delivered(self, message: DeliveredMessage) -> None:
        """A message arrived."""
        count = _returns(message)
        if self._near is not None and count >= self._near:
            self._counts[tag(message)] = count

    def acknowledged(self, last: int) -> None:
        """Messages up to this delivery tag are not returned any more."""
        self._counts = {number: count for number, count in self._counts.items() if number > last}

    def wait(self) -> float:
        """Return the seconds to wait at least before the next connection."""
        if self._near is None or not self._counts:
            return 0.0
        pause = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (self.highest - self._near))
        return max(0.0, self._connected_at + pause - self._monotonic())


def _returns(message: DeliveredMessage) -> int:
    """Return how often a message was returned to its quorum queue; 0 where the queue does not count.

    At a first delivery the header is from the queue in which the message was before.
    """
    count = (message.header.properties.headers or {}).get("x-delivery-count")
    return max(0, count) if type(count) is int and message.redelivered else 0

"""Where events go. A sink is anything with the three methods of `Sink`."""

from collections.abc import Callable
from typing import Protocol


class Sink(Protocol):
    """Takes events in order, from one thread."""

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Take one event. The sink may keep it until `flush`, and may wait while it has no room.

        Raises:
            EventRefusedError: not this one; the next may pass.
            SinkError: the sink cannot go on.
        """

    def flush(self) -> None:
        """Pass on what was kept. Called at least once a second and whenever nothing more is due, so it should not wait
        for answers.

        Raises:
            SinkError: the sink cannot go on.
        """

    def close(self) -> None:
        """Flush, wait a reasonable time for what is under way, and let go of everything.

        Raises:
            SinkError: not everything has arrived; the text says how much has not.
        """


class CallableSink:
    """Gives every event to a function, for whoever embeds the producer."""

    def __init__(self, function: Callable[[str, bytes, bytes | None], None]) -> None:
        self._function = function

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:
        self._function(topic, key, value)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

"""Where events go: anything with the three methods of `Sink`."""

from typing import Protocol


class Sink(Protocol):
    """Accepts events in order, from one thread."""

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Accept one event. The sink may keep it until `flush`, and may wait while it has no room.

        Raises:
            EventRefusedError: it does not take this event; it may take the next.
            SinkError: the sink cannot go on.
        """

    def flush(self) -> None:
        """Send what was kept. Called at least once a second and whenever nothing more is due, so it should not wait for
        answers.

        Raises:
            SinkError: the sink cannot go on.
        """

    def close(self) -> None:
        """Flush, wait a reasonable time for acknowledgements, and release everything.

        Raises:
            SinkError: some events have not arrived; the text says how many.
        """

"""For handlers: Python callables that a channel of type `python` gives notifications to (docs/channels/python.md).

A handler takes the envelope and returns None or True when it is done, a text to keep as a note beside the delivery, or
False to be called again. Raising anything means to be called again too; what is raised here says more.

Two handlers need no code: printing is the channel type `console`, an HTTP request `webhook`.
"""

from tocsin.channels.base import Message
from tocsin.envelope import Envelope

__all__ = ["Envelope", "Message", "Reject", "Retry"]


class Reject(Exception):  # noqa: N818 - says what is to happen
    """Raised by a handler: this notification will never be taken. It becomes a dead letter with this reason."""


class Retry(Exception):  # noqa: N818
    """Raised by a handler: not now. `after`: seconds before which it is not called again for this notification;
    with it, the attempt does not count against `max_attempts`."""

    def __init__(self, why: str = "", *, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after

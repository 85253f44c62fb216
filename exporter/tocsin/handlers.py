"""For handlers: Python callables that a channel of type `python` calls with notifications (docs/channels/python.md).

A handler gets the envelope. It returns None or True when it is done, a text to keep as a note of the delivery, or False
to be called again. After any other exception than `Reject` it is called again too.

Two tasks need no handler: the channel type `console` prints, `webhook` sends an HTTP request.
"""

from tocsin.channels.base import Message
from tocsin.envelope import Envelope

__all__ = ["Envelope", "Message", "Reject", "Retry"]


class Reject(Exception):  # noqa: N818 - named for what happens next
    """Raised by a handler: this notification can never be handled. It becomes a dead letter with this reason."""


class Retry(Exception):  # noqa: N818
    """Raised by a handler: call it again later. `after`: the least number of seconds until then; with it, the attempt
    does not count against `max_attempts`."""

    def __init__(self, why: str = "", *, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after

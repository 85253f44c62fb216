"""Errors of the producer."""


class ProducerError(Exception):
    """The base of all errors. The text is for people and holds no secret."""


class PlanError(ProducerError, ValueError):
    """A value of a plan is out of range. `option`: the field of `Plan`; `reason`: what it must be."""

    def __init__(self, option: str, message: str) -> None:
        self.option = option
        self.reason = message
        super().__init__(f"{option}: {message}")


class SinkError(ProducerError):
    """The sink cannot go on, or some events have not arrived."""


class ReaderGoneError(SinkError):
    """The reader has closed the output, as `head` does: an end, not an error."""


class EventRefusedError(ProducerError):
    """The sink does not take this one event. It may take the next."""

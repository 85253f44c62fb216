"""What can go wrong, one type for each reader."""


class ProducerError(Exception):
    """The root of the producer's own errors. Its text is for people and holds no secret."""


class PlanError(ProducerError, ValueError):
    """A plan that cannot be followed; `option` names the field of `Plan` that is to blame."""

    def __init__(self, option: str, message: str) -> None:
        self.option = option
        super().__init__(f"{option}: {message}")


class SinkError(ProducerError):
    """The sink cannot go on, or not everything that it was given has arrived."""


class ReaderGoneError(SinkError):
    """Whoever read the output has closed it, as `head` does: an end, not a fault."""


class EventRefusedError(ProducerError):
    """The sink does not take this one event. The next one may well pass."""

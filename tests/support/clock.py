"""A clock that moves only when told to."""


class Clock:
    """Wall-clock seconds since the epoch, as the argument `clock` of whatever takes one."""

    def __init__(self, now: float = 1_795_242_548.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

"""The clock of the ledger's server, measured over a network that takes its time."""

from support.clock import Clock
from tocsin.ledger.postgres.clock import EVERY, ServerClock


class Server:
    """Answers with its time, which is `ahead` of the monotonic clock, read after `early` seconds; its answer
    takes `late` more."""

    def __init__(self, monotonic: Clock) -> None:
        self.ahead = 0.0
        self._monotonic = monotonic

    async def answer(self, early: float, late: float) -> float:
        self._monotonic.advance(early)
        now = self._monotonic() + self.ahead
        self._monotonic.advance(late)
        return now


async def test_clock_of_this_process_does_not_count() -> None:
    """Nor a jump of it."""
    monotonic, wall = Clock(100.0), Clock(5000.0)
    clock, server = ServerClock(monotonic, wall), Server(monotonic)
    assert (clock(), clock.due) == (5000.0, True)
    server.ahead = 9000.0
    await clock.measure(lambda: server.answer(0.0, 0.0))
    wall.advance(-3600)
    monotonic.advance(5)
    assert (clock(), clock.due) == (9105.0, False)


async def test_slow_answer_does_not_move_the_clock() -> None:
    """It says less than what is known; an answer from another server moves it as little as it can be right."""
    monotonic = Clock(0.0)
    clock, server = ServerClock(monotonic, Clock(0.0)), Server(monotonic)
    server.ahead = 1000.0
    await clock.measure(lambda: server.answer(0.25, 0.25))
    assert clock() - monotonic() == 1000.0
    await clock.measure(lambda: server.answer(0.0, 8.0))
    assert clock() - monotonic() == 1000.0
    server.ahead = 400.0
    await clock.measure(lambda: server.answer(0.0, 2.0))
    assert clock() - monotonic() == 400.0


async def test_clock_is_measured_now_and_then() -> None:
    monotonic = Clock(0.0)
    clock, server = ServerClock(monotonic), Server(monotonic)
    await clock.measure(lambda: server.answer(0.0, 0.0))
    monotonic.advance(EVERY - 1)
    assert not clock.due
    monotonic.advance(1)
    assert clock.due

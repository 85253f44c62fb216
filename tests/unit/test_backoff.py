"""How long to wait: bounds for every attempt and any chance."""

from hypothesis import given
from hypothesis import strategies as st

from tocsin.backoff import Backoff

BACKOFF = Backoff(initial=1.0, maximum=300.0)
CHANCE = st.floats(0, 1, exclude_max=True)


def test_ceiling_doubles_up_to_maximum() -> None:
    assert [BACKOFF.ceiling(attempt) for attempt in range(10)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


def test_years_of_failures_keep_maximum() -> None:
    assert BACKOFF.ceiling(10_000_000) == 300.0


@given(st.integers(0, 100), CHANCE)
def test_delay_is_between_zero_and_ceiling(attempt: int, chance: float) -> None:
    assert 0 <= BACKOFF.delay(attempt, lambda: chance) <= BACKOFF.ceiling(attempt)


@given(st.integers(0, 100), CHANCE, st.floats(0, 1000))
def test_retry_after_is_lengthened_a_little(attempt: int, chance: float, asked: float) -> None:
    delay = BACKOFF.delay(attempt, lambda: chance, at_least=asked)
    assert asked <= delay <= max(1.1 * asked, BACKOFF.ceiling(attempt))


def test_same_retry_after_gives_different_delays() -> None:
    delays = {BACKOFF.delay(2, iter([chance]).__next__, at_least=60.0) for chance in (0.0, 0.2, 0.4, 0.6, 0.8)}
    assert len(delays) == 5
    assert all(60 <= delay <= 66 for delay in delays)


@given(st.integers(0, 100), CHANCE)
def test_retry_after_zero_keeps_the_backoff(attempt: int, chance: float) -> None:
    # Some servers answer `Retry-After: 0`: without a wait of our own that would be a busy loop.
    assert BACKOFF.delay(attempt, lambda: chance, at_least=0.0) == BACKOFF.delay(attempt, lambda: chance)


def test_short_retry_after_still_backs_off() -> None:
    assert BACKOFF.delay(8, lambda: 0.5, at_least=1.0) == 128.0

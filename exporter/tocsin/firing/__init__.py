"""The firing set of one alert: a multiset of rows per key, and the transitions that updates cause. No I/O; time is an
argument.

All times here are source time in milliseconds. An update at timestamp t is complete once the frontier has passed t, so
a timer due at d (`for`, `keep_firing_for`, `repeat_interval`) is decided when updates at or before d can no longer
come: before the first update later than d, or when the frontier passes d. The same history therefore gives the same
transitions, however it is cut into batches.
"""

from tocsin.firing.firing_set import FiringSet
from tocsin.firing.types import Firing, Key, Outcome, Phase, Rule

__all__ = ["Firing", "FiringSet", "Key", "Outcome", "Phase", "Rule"]

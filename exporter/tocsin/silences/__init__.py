"""Silences: which notifications are held back, and what becomes of them at the end. Pure."""

from tocsin.silences.asking import Asked, AskingError, asked
from tocsin.silences.matchers import Matchers, MatchersError, parse
from tocsin.silences.silence import OpenSilences, Silence, State, first_match

__all__ = [
    "Asked",
    "AskingError",
    "Matchers",
    "MatchersError",
    "OpenSilences",
    "Silence",
    "State",
    "asked",
    "first_match",
    "parse",
]

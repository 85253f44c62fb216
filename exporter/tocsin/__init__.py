"""Tocsin: rows of a live view become Prometheus gauges and durable notifications.

For programs (docs/python-api.md): `run` and `Tocsin` run it inside another program, with these errors; `tocsin.plugin`
is what a further type of channel or source is made of, `tocsin.handlers` what a handler of a `python` channel
gets, `tocsin.client` publishes events. Other modules may change with any version.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tocsin.embedding import Tocsin, run
    from tocsin.errors import ConfigError, LedgerError, ListenError, Problem, StallError, TocsinError

__all__ = [
    "ConfigError",
    "LedgerError",
    "ListenError",
    "Problem",
    "StallError",
    "Tocsin",
    "TocsinError",
    "run",
]


def __getattr__(name: str) -> object:
    """Import what is used: the command answers `--help` at once."""
    if name not in __all__:
        raise AttributeError(f"module 'tocsin' has no attribute {name!r}")
    module = "tocsin.embedding" if name in ("Tocsin", "run") else "tocsin.errors"
    return getattr(import_module(module), name)

"""Ports on this machine: the usual one, or the next that is free."""

import socket
from collections.abc import Iterator

from tocsin_demo.stack.errors import DemoError

HOST = "127.0.0.1"
ATTEMPTS = 20


def candidates(usual: int) -> Iterator[int]:
    """The usual port and those after it.

    Raises:
        DemoError: all have been tried.
    """
    yield from range(usual, usual + ATTEMPTS)
    raise DemoError(f"no port is free from {usual} to {usual + ATTEMPTS - 1}; end what listens there and start again")


def free(usual: int, *, taken: int = 0) -> int:
    """The first free port, except for `taken`. Another program may take it before it is used."""
    return next(port for port in candidates(usual) if port != taken and _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of a server that has just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True

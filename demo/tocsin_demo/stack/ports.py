"""Ports on this machine: the usual one, or the next that is free."""

import socket
from collections.abc import Iterator

from tocsin_demo.stack.errors import DemoError

HOST = "127.0.0.1"
ATTEMPTS = 20

_claims: list[socket.socket] = []
"""Open until this process ends."""


def candidates(usual: int) -> Iterator[int]:
    """The usual port and those after it.

    Raises:
        DemoError: all have been tried.
    """
    yield from range(usual, usual + ATTEMPTS)
    raise DemoError(f"no port is free from {usual} to {usual + ATTEMPTS - 1}; end what listens there and start again")


def free(usual: int) -> int:
    """The first free port, which no other demo uses as long as this process runs. Another program may take it before it
    is used."""
    return next(filter(_claim, candidates(usual)))


def _claim(port: int) -> bool:
    """Claim a port unless it is in use. The program that is to listen starts only later, so the claim is the UDP port
    of the same number: the operating system frees that one when this process ends, even if it is killed."""
    claim = socket.socket(type=socket.SOCK_DGRAM)
    try:
        claim.bind((HOST, port))
        with socket.socket() as probe:
            # As servers do: connections of a server that has just ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True

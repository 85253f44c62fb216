"""Ports of this machine for the servers of tests."""

import secrets
import socket
from collections import deque

_CHOSEN: deque[socket.socket] = deque()
"""UDP ports of the same numbers as the last ones chosen, so that no other process that runs tests chooses them."""


def free_port() -> int:
    """A port without a listener, also while a server is between two runs. It is not among those that Linux chooses by
    itself, for a connection or for port 0."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _CHOSEN.append(claim)
        if len(_CHOSEN) > 100:
            _CHOSEN.popleft().close()
        return port

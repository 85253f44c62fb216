"""Public addresses, and sockets that connect to no others."""

import ipaddress
import socket
from typing import Any

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")


class PrivateAddressError(OSError):
    """The address is private. All have the same text, whichever of several addresses it was."""

    def __init__(self) -> None:
        super().__init__("a private address")


def public(address: str) -> bool:
    """Whether an IP address is reachable from the whole internet.

    Loopback, link-local (with the metadata services of clouds), private, unique local, shared, multicast, reserved and
    unspecified addresses are not, and neither are IPv6 forms of such an IPv4 address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _inner(ip)
        if inner is not None:
            return public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for an address as `getaddrinfo` returns it; raises PrivateAddressError.

    It is called just before connecting, with the address that is connected to, so neither another lookup of the name
    nor the spelling of the address matters.
    """
    family, kind, protocol, _, (address, *_) = info
    if not public(address):
        raise PrivateAddressError
    return socket.socket(family=family, type=kind, proto=protocol)


def _inner(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None

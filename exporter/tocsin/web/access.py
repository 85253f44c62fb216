"""Who may do what on the port. Pure: time is an argument, and checks of passwords are made elsewhere."""

import hmac
import ipaddress
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any

from tocsin.config.sections import WebSettings
from tocsin.config.web_file import WebFileSettings

_NEVER_PUBLIC = (".localhost", ".svc", ".svc.cluster.local")
"""Ends of names that only this machine or a Kubernetes cluster resolves."""


class Role(StrEnum):
    """What a client may do."""

    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Password:
    """A user with a password, as a request has them."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, as a request has it."""

    token: str = field(repr=False)


def credentials(headers: Iterable[str]) -> Password | Token | None:
    """Return what the headers `Authorization` hold. Raises ValueError for what is neither Basic nor Bearer."""
    found = [header.strip() for header in headers]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError("send one Authorization header")
    scheme, _, rest = found[0].partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return Token(rest.strip())
    if scheme.lower() == "basic":
        try:
            user, colon, password = b64decode(rest.strip(), validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise ValueError("the Authorization header is not valid Basic authentication, in UTF-8")
        return Password(user, password)
    raise ValueError("the Authorization header must be `Basic` or `Bearer`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is configured, of `web` in tocsin.yaml and of the file that `web.config_file` names."""

    admin: bool = False
    """Whether anyone may change something."""
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """User -> bcrypt hash."""
    tokens: Mapping[bytes, Role] = field(default_factory=dict, repr=False)
    """SHA-256 of a token -> its role."""
    admins: frozenset[str] = frozenset()
    certificates: bool = False
    """Whether only clients with a verified certificate get as far as a request."""
    allowed_sans: frozenset[str] = frozenset()
    """If there are any: a client certificate must have one of these names."""
    hosts: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    burst: int = 0
    interval: float = 0.0
    """Seconds. `burst` requests at once and then one each interval; 0: no limit."""

    @property
    def needs_login(self) -> bool:
        """Whether a request needs a password or a token."""
        return bool(self.users or self.tokens)

    @property
    def open(self) -> bool:
        """Whether anyone who reaches the port may read."""
        return not (self.needs_login or self.certificates)

    def of_token(self, token: str) -> Role | None:
        """Return the role of a token. Takes equally long for all of one length."""
        digest, found = sha256(token.encode("utf-8", "surrogateescape")).digest(), None
        for known, role in self.tokens.items():
            if hmac.compare_digest(known, digest):
                found = role
        return found

    def of_user(self, user: str | None, names: frozenset[str]) -> Role:
        """Return the role of a user whose password is right, or without one, and of a client certificate's names."""
        if self.open:
            return Role.ADMIN  # without any login, `admin` is only true on a loopback address
        return Role.ADMIN if self.admins & (names if user is None else names | {user}) else Role.READ

    def allows_certificate(self, names: frozenset[str] | None) -> bool:
        """Return whether the names of a client certificate are allowed. None: it sent none."""
        return not self.allowed_sans or names is None or bool(self.allowed_sans & names)

    def knows_host(self, host: str) -> bool:
        """Return whether a browser that sends this Host header was sent here on purpose.

        A foreign page can have its own name resolved to this address ("DNS rebinding"), and the browser then takes this
        port for a part of that page. Its name is a public one, so it has a dot and is not an address.
        """
        if not self.open:
            return True  # the browser has no password for a foreign name
        name = _without_port(host).lower().removesuffix(".")
        if "." not in name or name.endswith(_NEVER_PUBLIC) or name in self.hosts:
            return True
        return _is_address(name)


def rules(web: WebSettings, file: WebFileSettings, *, loopback: bool) -> Rules:
    """Return the rules of a configuration. `loopback`: whether only this machine reaches the port."""
    tls, rate = file.tls_server_config, file.rate_limit
    secrets = [(token.token, token.role) for token in web.tokens.values() if token.token is not None]
    found = Rules(
        admin=web.admin,
        users=file.users,
        tokens={sha256(one.get_secret_value().encode()).digest(): Role(role) for one, role in secrets},
        admins=frozenset(web.admins),
        certificates=tls.requires_certificate,
        allowed_sans=frozenset(map(_normal, tls.client_allowed_sans)),
        hosts=frozenset(host.lower() for host in (*web.hosts, web.host) if host),
        headers={name: value for name, value in file.http_server_config.headers.items() if value},
        burst=rate.burst,
        interval=rate.interval,
    )
    return replace(found, admin=found.admin and (loopback or not found.open))


def certificate_names(certificate: Mapping[str, Any] | None) -> frozenset[str] | None:
    """Return the subject alternative names of a verified certificate, as `getpeercert` returns it."""
    if not certificate:
        return None
    return frozenset(_normal(value) for _, value in certificate.get("subjectAltName", ()))


def _normal(name: str) -> str:
    """Return a name with an IP address in its usual form: OpenSSL writes IPv6 in another one."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return ":" in name
    return True


class Buckets:
    """A token bucket for each key: `burst` at once, then one each `interval` seconds. Keeps the latest `most` keys."""

    def __init__(self, *, burst: int, interval: float, most: int = 10_000) -> None:
        self._burst = burst
        self._interval = interval
        self._most = most
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """Key -> when its bucket is full again."""

    def wait(self, key: str, now: float) -> float:
        """Return the seconds until there is one to take; 0: now."""
        lacks = max(self._full_at.get(key, now) - now, 0.0) / self._interval
        return max(lacks - self._burst + 1, 0.0) * self._interval

    def take(self, key: str, now: float) -> None:
        """Take one, whether it is there or not."""
        full = max(self._full_at.pop(key, now), now) + self._interval
        self._full_at[key] = min(full, now + self._burst * self._interval)
        if len(self._full_at) > self._most:
            self._full_at.popitem(last=False)


def network(address: str | None) -> str:
    """Return what failed logins of an address are counted for: itself, of IPv6 its network of one site."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False).network_address)
    return str(found)

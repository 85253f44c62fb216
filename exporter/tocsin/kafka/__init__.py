"""Shared by the channel and the source for Kafka: the connection to a cluster, and the errors of librdkafka.

This module does not import the library, so that a configuration can be checked without it; `producing` does.
"""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import structlog
from pydantic import Field, field_validator, model_validator

from tocsin.settings import Secret, Settings

log = structlog.get_logger(__name__)

Redact = Callable[[str], str]
"""Removes the secrets from a text."""

TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")
"""Valid topic names."""

_SERVER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/,@]+)(?::([0-9]{1,5}))?")
_PROPERTY = re.compile(r"[a-z][a-z0-9]*(?:\.[a-z0-9]+)*")
_HIDDEN = re.compile(r"password|secret|pem|token|credential|config|\.key")

SettingText = Annotated[str, Field(min_length=1, pattern=r"\S")]


class KafkaConnection(Settings):
    """The connection to a Kafka cluster, or to anything else with its protocol."""

    secrets: ClassVar[tuple[str, ...]] = ("sasl_password", "tls_key_password")

    bootstrap_servers: Annotated[list[SettingText], Field(min_length=1)]
    """Brokers for the first contact, as `host:port`; they name the others."""

    tls: bool = False
    """Encrypt connections, and check the broker's certificate and name."""

    tls_ca: Path | None = None
    """A file with the certificates to trust. Default: those of the operating system."""

    tls_cert: Path | None = None
    """A file with the client's certificate."""

    tls_key: Path | None = None
    """A file with the client's key."""

    tls_key_password: Secret | None = None
    """The password of that key."""

    tls_key_password_file: str | None = None
    """A file that holds the tls_key_password."""

    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How to log in. `PLAIN` sends the password in the clear, so use it with `tls`."""

    sasl_username: SettingText | None = None
    """The user to log in as."""

    sasl_password: Secret | None = None
    """The user's password."""

    sasl_password_file: str | None = None
    """A file that holds the sasl_password."""

    librdkafka: dict[str, Secret] = Field(default_factory=dict)
    """Further settings of librdkafka by name, for example another way to log in. Their values are never shown."""

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_servers(cls, servers: list[str]) -> list[str]:
        for server in servers:
            match = _SERVER.fullmatch(server)
            if match is None or (match[1] is not None and not 1 <= int(match[1]) <= 65535):
                raise ValueError(f"{server!r} is not host:port; write a list, such as [kafka-1:9092, kafka-2:9092]")
        return servers

    @field_validator("librdkafka")
    @classmethod
    def _are_names(cls, further: dict[str, Secret]) -> dict[str, Secret]:
        for name in further:
            if not _PROPERTY.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a setting of librdkafka")
            if name in _OWN:
                raise ValueError(f"{name} is set by Tocsin")
        return further

    @model_validator(mode="after")
    def _login_is_complete(self) -> "KafkaConnection":
        sasl = {name: getattr(self, name) for name in ("sasl_mechanism", "sasl_username", "sasl_password")}
        missing = [name for name, value in sasl.items() if value is None]
        if missing and len(missing) < len(sasl):
            raise ValueError(f"to log in, also set {' and '.join(missing)}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("set tls_cert and tls_key together")
        if not self.tls and (self.tls_ca or self.tls_cert):
            raise ValueError("certificates have an effect only with tls: true")
        return self

    @property
    def display(self) -> str:
        """The cluster, as messages name it."""
        return f"Kafka at {','.join(self.bootstrap_servers)}"

    def hidden(self) -> list[Secret | str]:
        """Return what must never be shown: passwords, and further settings that may hold one."""
        own = [secret for secret in (self.sasl_password, self.tls_key_password) if secret is not None]
        return [*own, *(value for name, value in self.librdkafka.items() if _HIDDEN.search(name))]

    def client_settings(self) -> dict[str, Any]:
        """Return the settings for librdkafka. They hold passwords: never print them."""
        settings: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.bootstrap_servers),
            "client.id": "tocsin",
            "security.protocol": ("sasl_" if self.sasl_mechanism else "") + ("ssl" if self.tls else "plaintext"),
        }
        optional = {
            "ssl.ca.location": self.tls_ca,
            "ssl.certificate.location": self.tls_cert,
            "ssl.key.location": self.tls_key,
            "ssl.key.password": self.tls_key_password,
            "sasl.mechanisms": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": self.sasl_password,
        }
        for name, value in {**optional, **self.librdkafka}.items():
            if value is not None:
                settings[name] = value.get_secret_value() if isinstance(value, Secret) else str(value)
        return settings


_OWN = {
    "bootstrap.servers",
    "metadata.broker.list",
    "enable.idempotence",
    "acks",
    "request.required.acks",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "message.max.bytes",
    "group.id",
    "group.protocol",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "partition.assignment.strategy",
    "statistics.interval.ms",
    "plugin.library.paths",
}


class Fault(Protocol):
    """The part of the library's KafkaError that is used here."""

    def code(self) -> int: ...

    def str(self) -> str: ...

    def fatal(self) -> bool: ...

    def retriable(self) -> bool: ...


# Error codes of Kafka's protocol, and negative ones of librdkafka. Both are stable.
ALL_BROKERS_DOWN, TRANSPORT, RESOLVE, QUEUE_FULL = -187, -195, -193, -184
TIMED_OUT = frozenset({-192, -185, 7})
"""A record, a call, a request between brokers."""
UNKNOWN_TOPIC = frozenset({3, -188, -190})
"""Reported by a broker, by the library; and an unknown partition."""
TOPIC_EXISTS, OFFSET_RESET, END_OF_PARTITION, MAX_POLL_EXCEEDED = 36, -140, -191, -147
TOO_LARGE = frozenset({4, 10, 18})
LOGIN_REFUSED = frozenset({-169, 58})
"""Reported by the library; by SASL."""
TOPIC_FORBIDDEN, GROUP_FORBIDDEN, CLUSTER_FORBIDDEN = 29, 30, 31
FORBIDDEN = LOGIN_REFUSED | {TOPIC_FORBIDDEN, GROUP_FORBIDDEN, CLUSTER_FORBIDDEN, 53}
"""53: a transaction."""
FINAL = frozenset({-186, 17, 21, 32, 43, 44, 76, 87})
"""A record is refused for good: an argument, the topic's name, acks, a timestamp, an old format, a policy of the
cluster, compression, a rule of the topic."""
NOT_SUPPORTED = frozenset({-165, 35})
"""A feature that the library or the broker lacks."""
FATAL, PURGED_IN_FLIGHT, PURGED = -150, -151, -152
ENDED = frozenset({FATAL, PURGED_IN_FLIGHT, PURGED})
"""The record's producer failed for good or was closed: refused, given up in flight, given up before."""


_RETRIABLE = frozenset({2, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 27, 41, 51, 56, 74, 75, 78, 80, 84, 88, 89, 100, 103})
"""Protocol errors that pass by themselves: a partition without a leader or with another one, a coordinator that loads
or moved, a broker that is slow, throttled or starting. KafkaError.retriable() is true only for some errors of
transactions and administration. An unknown topic (3) is not among them: it can be unknown for good."""


def retriable(error: Fault) -> bool:
    """Whether the same request may succeed a moment later."""
    return error.retriable() or error.code() in _RETRIABLE


def cause(error: Exception) -> Fault | None:
    """Return the error in an exception of the library."""
    inner = error.args[0] if error.args else None
    return inner if hasattr(inner, "code") and hasattr(inner, "fatal") else None


def message_of(error: Exception) -> str:
    """Return the text of an exception of the library."""
    fault = cause(error)
    return fault.str() if fault is not None else str(error)


_SAME_ADDRESS = re.compile(r"^\S+/bootstrap: (?=Connect to )")
"""What librdkafka writes before an address that the rest of the text has, too."""


class Trouble:
    """What librdkafka reports about its connections: the latest reason why nothing moves, until a broker answers again.

    The library reports a lasting fault only once, so its age does not tell whether it still holds.
    """

    CHECK_EVERY = 1000
    """Milliseconds between checks of the connections: the value for `statistics.interval.ms`."""

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self._why: Fault | None = None
        self.down = False
        self.fatal: Fault | None = None

    def report(self, error: Fault) -> None:
        """The library's `error_cb`."""
        if error.fatal():
            self.fatal = error
        elif error.code() == ALL_BROKERS_DOWN:
            self.down = True
        elif self._why is None or self._why.code() not in FORBIDDEN or error.code() in FORBIDDEN:
            # A refused login is followed by a closed connection, which is not the reason.
            self._why = error

    def check(self, statistics: str) -> None:
        """The library's `stats_cb`."""
        if self._why is None and not self.down:
            return
        if any(broker["state"] == "UP" for broker in json.loads(statistics)["brokers"].values()):
            self.over()

    def over(self) -> None:
        """A broker is reached, or has answered."""
        self._why, self.down = None, False

    @property
    def forbidden(self) -> Fault | None:
        """What a broker refuses: the login, or a right."""
        return self._why if self._why is not None and self._why.code() in FORBIDDEN else None

    @property
    def reason(self) -> str:
        """Why the brokers cannot be reached, in the library's words; empty while it is unknown."""
        if self._why is None:
            return ""
        text = self._why.str().partition(" (after ")[0]
        return self._redact(_SAME_ADDRESS.sub("", text))


class LibraryLog:
    """A `logging.Logger` for the library: its lines go to our log, without secrets."""

    def __init__(self, redact: Redact, **fields: str) -> None:
        self._redact = redact
        self._log = log.bind(**fields)

    def log(self, level: int, message: str, *parts: object) -> None:
        """Log one line. Failed connections are reported by their user, so here they are debug output."""
        write = self._log.warning if level >= logging.ERROR and parts[:1] != ("FAIL",) else self._log.debug
        write("librdkafka", text=self._redact(message % parts))

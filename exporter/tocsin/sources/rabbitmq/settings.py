"""The configuration of a RabbitMQ source."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from tocsin.settings import Duration, HostAlone, Secret, invalid
from tocsin.sources.settings import EventSourceSettings, Positive, Text

_LONGEST_KEY = 128
"""Bytes in the name of an argument; the library cuts off what is more. AMQP 0-9-1, section 4.2.5.5, has characters."""
_LARGEST_FLOAT = 3.4028234663852886e38
"""The library sends numbers with a fraction in single precision."""

_PLACE = re.compile(r"routing_key|type|body(?:\.[^.]+)+")


def _short(name: str) -> str:
    if len(name.encode("utf-8", "replace")) > 255:
        raise ValueError("must not be longer than 255 bytes")
    return name


Name = Annotated[Text, AfterValidator(_short)]
"""What AMQP calls a short string."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Server:
    """Address and login, unescaped."""

    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: bool


class Config(EventSourceSettings):
    """A queue of RabbitMQ. Its messages are JSON objects; several processes share them. Needs the extra `rabbitmq`: pip
    install 'tocsin[rabbitmq]'."""

    package: ClassVar[str] = "aio_pika"

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["host", "user"]}, {"required": ["url"]}, {"required": ["url_file"]}]}
    )
    secrets: ClassVar[tuple[str, ...]] = ("url", "password")

    url: Secret | None = None
    """A whole address, `amqp://user:password@host:5672/vhost` or `amqps://...`, instead of `host`, `port`, `user`,
    `password` and `vhost`. In it, `%40` stands for `@`, `%2F` for `/`, and so on; without a vhost it is `/`."""
    url_file: str | None = None
    """A file that holds the url."""
    host: Annotated[Text, HostAlone] | None = None
    """Name or address of the server. Required without `url`."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """TCP port. Default: 5672, or 5671 with `tls`."""
    user: Name | None = None
    """The user to log in as. Required without `url`."""
    password: Secret | None = None
    """The user's password, unescaped. Required without `url`."""
    password_file: str | None = None
    """A file that holds the password."""
    vhost: Name = "/"
    """The virtual host, unescaped."""
    tls: bool = False
    """Encrypt the connection; with `url`, use `amqps`."""
    tls_ca: Path | None = None
    """A file with the certificates to trust. Default: those of the operating system."""
    tls_verify: bool = True
    """Whether the server's certificate must be good and be for `host`. `false` lets anyone in between read."""

    queue: Name
    """The queue to read."""
    queue_type: Literal["classic", "quorum"] = "classic"
    """`quorum`: replicated over nodes of a cluster. RabbitMQ 4 drops messages that are returned to such a queue too
    often: see the page of this source."""
    queue_durable: bool = True
    """Whether the queue, with its persistent messages, survives a restart of the server. RabbitMQ 4.3 refuses `false`
    unless it is set up to permit such queues."""
    queue_arguments: dict[Name, str | int | float | bool] = Field(default_factory=dict)
    """Further arguments of the queue, such as `x-message-ttl`. For a new quorum queue of RabbitMQ 4, `x-delivery-limit:
    -1` keeps messages that are returned more than 20 times."""
    exchange: Name | None = None
    """The exchange that the queue is bound to. Default: senders address the queue by name."""
    exchange_type: Literal["topic", "direct", "fanout"] = "topic"
    """How the exchange compares routing keys: by pattern, exactly, or not at all."""
    exchange_durable: bool = True
    """Whether the exchange survives a restart of the server."""
    binding_keys: Name | list[Name] = Field(default_factory=list)
    """The routing keys to bind, one or a list. For a `topic` exchange, `*` matches one word and `#` any number of
    words. Keys removed from here stay bound."""
    declare: bool = True
    """Create queue, exchange, bindings and dead letters where missing. `false` for a user without the right: then they
    must exist."""

    dead_letters: Name | None = None
    """The exchange and the queue for messages that cannot be used. Default: `<queue>.dead`."""

    name_from: Text | list[Text] = Field(default=["body.alert", "body.alerts", "body.message.alertTypes"])
    """Where a message names its events, one place or a list of places to try in order: `routing_key`, `type` (the
    property), or a path into the object, `body.field` or `body.field.field`. The value is a name or a list of names;
    each is an event. Events named in `body.message.alertTypes` have their fields in `body.message.message`, all others
    in the body."""

    defaults: dict[Text, JsonValue] = Field(default_factory=dict)
    """Fields for events that lack them or have null there, such as `recipients` or `subject`."""

    prefetch: Annotated[int, Field(ge=1, le=65535)] = 300
    """Unacknowledged messages that the server delivers at most."""
    max_bytes: Annotated[int, Field(ge=1)] = 1_048_576
    """A longer message is a dead letter."""
    consumer_tag: Name | None = None
    """The consumer tag. Default: a unique one."""
    heartbeat: Annotated[Duration, Field(ge=1, le=3600)] = 10.0
    """Interval of heartbeats. A connection that is silent for three times as long counts as lost."""
    connect_timeout: Positive = 10.0
    """How long connecting and declaring may take, and each later answer of the server."""
    give_up_after: Positive | None = None
    """End the process with exit code 124 after the source was down for this long, for a supervisor. Default: retry for
    ever."""

    @property
    def exit_after(self) -> float | None:
        return self.give_up_after

    @field_validator("url")
    @classmethod
    def _url_parses(cls, url: Secret | None) -> Secret | None:
        if url is not None:
            _parsed(url.get_secret_value())
        return url

    @field_validator("queue_arguments")
    @classmethod
    def _fit_the_queue(
        cls, arguments: dict[str, str | int | float | bool], settings: ValidationInfo
    ) -> dict[str, str | int | float | bool]:
        for name, value in arguments.items():
            if len(name.encode()) > _LONGEST_KEY:
                raise ValueError(f"the name {name[:20]!r}... is longer than {_LONGEST_KEY} bytes")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{name} is {value}, which does not fit in 64 bits")
            if isinstance(value, float) and not abs(value) <= _LARGEST_FLOAT:
                raise ValueError(f"{name} is {value}, which is not a number of single precision")
        if arguments.get("x-queue-type") == "stream":
            raise invalid("queue_type", "stream is not supported; use queue_type: classic or quorum", "x-queue-type")
        limit = arguments.get("x-delivery-limit")
        if limit is not None and type(limit) is not int:
            raise ValueError(f"x-delivery-limit is {limit!r}; set a whole number, or -1 for no limit")
        if limit is not None and arguments.get("x-queue-type", settings.data.get("queue_type")) == "classic":
            raise ValueError("x-delivery-limit is for quorum queues; set queue_type: quorum, or leave it out")
        return arguments

    @field_validator("name_from")
    @classmethod
    def _are_places(cls, places: str | list[str]) -> str | list[str]:
        for place in _listed(places):
            if not _PLACE.fullmatch(place):
                raise ValueError(f"{place!r} is not a place in a message; write routing_key, type, or body.field")
        if not places:
            raise ValueError("must name a place")
        return places

    @model_validator(mode="after")
    def _one_way_to_connect(self) -> Self:
        own = ("host", "port", "user", "password", "vhost", "tls")
        if self.url is not None:
            both = [name for name in own if name in self.model_fields_set]
            if both:
                raise ValueError(f"set url, or {' and '.join(both)}, not both")
        else:
            missing = [name for name in ("host", "user", "password") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"set {' and '.join(missing)}, or url")
        if not self.server.tls and (self.tls_ca is not None or not self.tls_verify):
            raise ValueError("tls_ca and tls_verify need TLS: set tls: true, or use amqps in the url")
        return self

    def advice(self) -> Mapping[str, str]:
        why = "RabbitMQ 4.3 refuses such a queue unless it is set up to permit it; "
        why += "for one that ends when it is not used, set x-expires in queue_arguments"
        return {} if self.queue_durable else {"queue_durable": why}

    @model_validator(mode="after")
    def _topology_fits(self) -> Self:
        if self.queue_type == "quorum" and not self.queue_durable:
            raise ValueError("a quorum queue is always durable; remove queue_durable")
        if self.exchange is None and self.keys:
            raise ValueError("binding_keys bind the queue to an exchange; set exchange too")
        if self.declare and self.exchange is not None and self.exchange_type != "fanout" and not self.keys:
            raise ValueError(
                f"set binding_keys: without any, a {self.exchange_type} exchange routes no message to the queue"
            )
        if self.dead_letter_name in (self.queue, self.exchange):
            raise ValueError("dead_letters must differ from queue and exchange: a message would come back for ever")
        _short(self.dead_letter_name)
        return self

    @property
    def server(self) -> Server:
        """Address and login, from `url` or the single settings. Holds the password: never print it."""
        if self.url is not None:
            return _parsed(self.url.get_secret_value())
        assert self.host is not None
        assert self.user is not None
        assert self.password is not None
        return Server(
            host=self.host,
            port=self.port or _port(self.tls),
            user=self.user,
            password=self.password.get_secret_value(),
            vhost=self.vhost,
            tls=self.tls,
        )

    @property
    def display(self) -> str:
        """The server, as messages name it."""
        server = self.server
        host = f"[{server.host}]" if ":" in server.host else server.host
        return f"RabbitMQ at {host}:{server.port}"

    @property
    def keys(self) -> list[str]:
        """The binding keys."""
        return _listed(self.binding_keys)

    @property
    def places(self) -> list[str]:
        """The places where a message names its events."""
        return _listed(self.name_from)

    @property
    def dead_letter_name(self) -> str:
        """The exchange and the queue for dead letters."""
        return self.dead_letters or f"{self.queue}.dead"

    def hidden(self) -> list[Secret | str]:
        """Return what must never be shown."""
        return [self.server.password, *([self.url] if self.url is not None else [])]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _port(tls: bool) -> int:
    return 5671 if tls else 5672


def _parsed(url: str) -> Server:
    """Parse an URL, by https://www.rabbitmq.com/docs/uri-spec. Raises ValueError, without any part of it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("amqp", "amqps") or not (parts.hostname and parts.username and parts.password):
        raise ValueError(
            "is not amqp://user:password@host:port/vhost; in user, password and vhost, write %40 for @, %2F for /, "
            "%3A for :, %23 for #, %3F for ?, and %25 for %"
        )
    if parts.query or parts.fragment or "/" in parts.path[1:]:
        raise ValueError("has something after the vhost; write %2F for / in it, %3F for ? and %23 for #")
    tls = parts.scheme == "amqps"
    return Server(
        host=parts.hostname,
        port=port or _port(tls),
        user=unquote(parts.username),
        password=unquote(parts.password),
        vhost=unquote(parts.path[1:]) or "/",
        tls=tls,
    )

"""The sections of `tocsin.yaml` as pydantic models. What depends on more than one of them is checked in `semantics`."""

import ipaddress
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

from tocsin.alert import Initial
from tocsin.model import OnDuplicate
from tocsin.settings import Duration, Settings

_RELATION = re.compile(r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)){0,2}')


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


Text = Annotated[str, AfterValidator(_filled), Field(json_schema_extra={"minLength": 1})]
"""Text that is not empty."""

Level = Literal["debug", "info", "warning", "error"]


class LedgerSettings(Settings):
    """Where the state is kept that survives a restart: firing rows, notifications not yet delivered, and the resume
    point."""

    path: Text = "tocsin.db"
    """The file, relative to the working directory. It belongs on a local disk, and to one process at a time."""
    history: Duration = 7 * 86400.0
    """How long delivered notifications are kept to look at. Dead letters stay until somebody decides about them."""


class WebSettings(Settings):
    """The port for Prometheus, for probes and for people."""

    listen: Text = "127.0.0.1:8627"
    """Address and port. `0.0.0.0:8627` or `[::]:8627` for every interface."""
    admin: bool = False
    """Whether the port also takes orders: reload, and replay or drop dead letters. Whoever reaches the port may then
    give them."""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        host, colon, port = listen.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError("write an address and a port, as in 127.0.0.1:8627")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ipaddress.IPv6Address(host[1:-1] if bracketed else "::")
        except ValueError:
            raise ValueError(f"{host} is no IPv6 address") from None
        if not bracketed and ":" in host:
            raise ValueError("write an IPv6 address in brackets, as in [::1]:8627")
        return listen

    @property
    def host(self) -> str:
        """The address without brackets; empty for every interface."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class LogSettings(Settings):
    """What is written about the running process."""

    level: Level = "info"
    """The least severe level that is written."""
    format: Literal["auto", "text", "logfmt", "json"] = "auto"
    """`auto`: text on a terminal, logfmt elsewhere."""
    output: Text = "stderr"
    """`stderr`, `stdout`, or a file that is appended to."""

    @field_validator("level", mode="before")
    @classmethod
    def _any_case(cls, level: Any) -> Any:
        return level.lower() if isinstance(level, str) else level


class Notify(Settings):
    """A channel to notify, with that channel's options for this alert beside its name."""

    model_config = ConfigDict(extra="allow")

    channel: Text
    """The channel's name."""

    @property
    def options(self) -> dict[str, Any]:
        """The options as they stand in the file; the channel's type decides what they mean."""
        return dict(self.__pydantic_extra__ or {})


_NAMED = ("relation", "query", "topic", "event")
_SUBJECTS: list[JsonValue] = [
    {"required": ["relation"]},
    {"required": ["query"]},
    {"required": ["topic"]},
    {"required": ["event"]},
    {
        "not": {
            "anyOf": [
                {"required": ["relation"]},
                {"required": ["query"]},
                {"required": ["topic"]},
                {"required": ["event"]},
            ]
        }
    },
]


class AlertSettings(Settings):
    """One alert: rows to watch, what identifies one, what to show of it, and whom to tell."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _SUBJECTS})

    source: Text
    """The source that has the rows."""
    relation: Text | None = None
    """View or table to watch, as SQL would write it: `schema.view`, `"Mixed Case".view`. Either this or `query`."""
    query: Text | None = None
    """A SELECT to watch, taken as it stands."""
    topic: Text | None = None
    """The topic to take, of a Kafka source. Without it the alert's name."""
    event: Text | None = None
    """The events to take, by their name, of another source of events. Without it the alert's name."""
    key: list[Text] | None = None
    """Columns that identify one firing. Without it the label columns, and without labels the whole row. Events with the
    same key are told one after another, in order; without a key in any order."""
    labels: list[Text] | dict[str, Text] = Field(default_factory=list)
    """Columns that become labels of the gauge, under their own names or as `label: column`."""
    static_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that are the same on every series of this alert."""
    value: Text | None = None
    """Column with the gauge's value. Without it a firing row counts 1."""
    metric: Text | None = None
    """Name of the gauge. Without it the alert's name."""
    help: str | None = None
    """The gauge's help text."""
    on_duplicate: OnDuplicate = "max"
    """What the value is when several rows have the same labels; `first` is the row that was there first."""
    max_series: Annotated[int, Field(ge=1)] = 10_000
    """The most series of this alert that are served, so that a mistake in a view does not flood Prometheus."""
    linger: Duration = 0.0
    """How long a series that stopped firing is still served, with value 0, before it goes."""
    hold: Duration = Field(default=0.0, alias="for")
    """How long a row must have been there before it fires."""
    keep_firing_for: Duration = 0.0
    """How long a firing goes on after its row went, so that a row that comes and goes is one firing."""
    repeat_interval: Duration = 0.0
    """After how long a firing that goes on is told again; `0` never."""
    ignore: list[Text] = Field(default_factory=list)
    """Columns whose change is no update. So no route of the alert may go by one, with `when` or `group_by`."""
    initial: Initial = "notify"
    """Whether rows that are there at the very first start are told."""
    dedupe_by: list[Text] = Field(default_factory=list)
    """Of events: the columns that make two events equal. Of equal events only the first within `dedupe_window` is sent.
    An event without one of the columns is always sent."""
    dedupe_window: Duration = 3600.0
    """How long after an event others are repeats of it."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Templates that go into every notification, by name."""
    gauges: bool = True
    """Whether firing rows become a gauge at all."""
    notify: list[str | Notify] = Field(default_factory=list)
    """Channels to notify: names, or mappings with `channel` and that channel's options for this alert."""

    @field_validator("relation")
    @classmethod
    def _is_a_name(cls, relation: str | None) -> str | None:
        if relation is not None and not _RELATION.fullmatch(relation):
            raise ValueError('must be a name as SQL writes it: schema.name, with double quotes where needed: "My View"')
        return relation

    @field_validator("query")
    @classmethod
    def _is_one_statement(cls, query: str | None) -> str | None:
        if query is not None and query.lstrip().upper().startswith(("SUBSCRIBE", "COPY", "DECLARE")):
            raise ValueError("write the SELECT alone; Tocsin subscribes to it")
        return query

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        given = [name for name in _NAMED if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give either {' or '.join(given)}, not both")
        return self

    @property
    def label_columns(self) -> dict[str, str]:
        """Label name -> column."""
        return dict(self.labels) if isinstance(self.labels, dict) else {name: name for name in self.labels}

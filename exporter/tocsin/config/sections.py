"""The sections of `tocsin.yaml` as models. `semantics` checks what depends on more than one of them."""

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tocsin.alert import Initial
from tocsin.model import OnDuplicate
from tocsin.postgres import Name, Positive, parsed, without_password
from tocsin.settings import Duration, Secret, Settings, invalid, plain
from tocsin.templates import VARIABLES, Template

if TYPE_CHECKING:
    from tocsin.ledger.postgres import LedgerServer

_RELATION = re.compile(r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)){0,2}')
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SHORTEST_TOKEN = 16


def _filled(value: str) -> str:
    if not value.strip():
        raise invalid("empty", "must not be empty")
    if "\0" in value:
        raise invalid("nul", "must not contain a NUL character")
    return value


def _compiles(text: str) -> str:
    Template(text, place="", known=VARIABLES - {"annotations", "merged"})
    return text


Text = Annotated[str, AfterValidator(_filled), Field(json_schema_extra={"minLength": 1})]
"""Text that is not empty."""

Column = Annotated[Text, plain("write the name of a column alone")]
LabelValue = Annotated[str, plain("for a column of the row use labels")]

Level = Literal["debug", "info", "warning", "error"]


class LedgerSettings(Settings):
    """The state that survives a restart: firing rows, pending notifications and the resume point. In a file, or in
    PostgreSQL."""

    secrets: ClassVar[tuple[str, ...]] = ("url",)

    path: Text = "tocsin.db"
    """The file, relative to the working directory. Put it on a local disk. Only one process can use it at a time."""
    url: Secret | None = None
    """A PostgreSQL database that holds the state instead of the file: `postgresql://user:password@host/database`.
    Several processes with the same `url` share the work."""
    url_file: Path | None = None
    """A file that holds the `url`. Each new connection uses the password that is in it then."""
    namespace: Name = "tocsin"
    """The schema of the tables in that database. Installations that share a database need one each."""
    lease: Positive = 2.0
    """How long a process that no longer reaches the database keeps others from taking over."""
    follow: bool = True
    """Whether each process also follows the alerts that others lead, so that it serves their gauges, too, and none ends
    with the process that leads it. The source then sends its rows to each process."""
    history: Duration = 7 * 86400.0
    """How long delivered notifications are kept. Dead letters are kept until they are retried or dropped."""

    def server(self) -> "LedgerServer | None":
        """The database, if the state is in one."""
        if self.url is None:
            return None
        from tocsin.ledger.postgres import LedgerServer

        return LedgerServer(dsn=self.url, password_from=self.url_file, namespace=self.namespace, lease=self.lease)

    def is_renewed(self, before: "LedgerSettings") -> bool:
        """Whether only the password in `url_file` is another one. Each new connection reads it."""
        if self.url is None or before.url is None or self.url_file is None or self.url_file != before.url_file:
            return False
        return without_password(self.url) == without_password(before.url)

    @field_validator("url")
    @classmethod
    def _url_parses(cls, url: Secret | None) -> Secret | None:
        if url is not None:
            parsed(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
        if self.url is not None and self.path != type(self).model_fields["path"].default:
            raise ValueError("set path or url, not both: the state is in the file or in PostgreSQL")
        return self


class TokenSettings(Settings):
    """A bearer token of a script: `Authorization: Bearer <token>`."""

    secrets: ClassVar[tuple[str, ...]] = ("token",)

    token: Secret | None = None
    """The token: at least 16 printable ASCII characters. Set this or `token_file`."""
    token_file: str | None = None
    """A file that holds the token."""
    role: Literal["read", "admin"] = "read"
    """`admin`: it can also reload, retry and drop, if `web.admin` is set."""

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, token: Secret | None) -> Secret | None:
        text = "-" * _SHORTEST_TOKEN if token is None else token.get_secret_value()
        if not (text.isascii() and text.isprintable() and " " not in text):
            raise invalid("token", "must be printable ASCII without spaces")
        if len(text) < _SHORTEST_TOKEN:
            raise invalid("token", "must have at least 16 characters; make one with: openssl rand -hex 24")
        return token

    @model_validator(mode="after")
    def _is_set(self) -> Self:
        if self.token is None:
            raise invalid("required", "set token or token_file")
        return self


class WebSettings(Settings):
    """The HTTP port for metrics, probes, the API and the status page. docs/security.md explains who may do
    what."""

    listen: Text = "127.0.0.1:8627"
    """Address and port. `0.0.0.0:8627` or `[::]:8627` for every interface."""
    admin: bool = False
    """Whether the API can reload the configuration and retry or drop dead letters: for tokens with the role `admin` and
    those in `admins`, or, where there is neither password, token nor client certificate, for all processes of this
    machine (only with `listen` on a loopback address)."""
    config_file: Text | None = None
    """A file with TLS, client certificates, users with passwords, headers and a rate limit, in the format of
    Prometheus's exporter-toolkit (`--web.config.file`). It is read again when it or a certificate changes. A file that
    lost TLS, the users or client certificates is refused until a restart."""
    admins: list[Text] = Field(default_factory=list)
    """Users of `config_file`, and names (SAN) in client certificates that it verifies, with the role `admin`. All
    others can only read."""
    tokens: dict[Text, TokenSettings] = Field(default_factory=dict)
    """Bearer tokens for scripts, by a name of your choice."""
    hosts: list[Text] = Field(default_factory=list)
    """Names under which browsers and Prometheus reach the port, as in `tocsin.example.com`. Only without users, tokens
    and required client certificates: then requests under other names with a dot are refused, so that no web page can
    read the port by pointing its own name here. IP addresses, names without a dot and the name of the machine need no
    entry."""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        host, colon, port = listen.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or "/" in host:
            raise invalid("listen", "write an address and a port, as in 127.0.0.1:8627")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ipaddress.IPv6Address(host[1:-1] if bracketed else "::")
        except ValueError:
            raise invalid("ipv6", "{name} is not an IPv6 address", name=host) from None
        if not bracketed and ":" in host:
            raise invalid("brackets", "write an IPv6 address in brackets, as in [::1]:8627")
        if host and not bracketed and not _HOST.fullmatch(host):
            raise invalid("listen", "write an address and a port, as in 127.0.0.1:8627, or 0.0.0.0:8627 for all")
        return listen

    @classmethod
    def with_secrets(cls, data: dict[str, Any]) -> tuple[dict[str, Any], list[PydanticCustomError]]:
        """See `Settings.with_secrets`; the secrets are one level below."""
        data, errors = super().with_secrets(data)
        tokens = data.get("tokens")
        if not isinstance(tokens, dict):
            return data, errors
        read = {}
        for name, entry in tokens.items():
            read[name], wrong = TokenSettings.with_secrets(entry) if isinstance(entry, dict) else (entry, [])
            for error in wrong:
                fields = dict(error.context or {})
                at = ("tokens", name, *fields.pop("at", ()))
                errors.append(PydanticCustomError(error.type, error.message_template, {**fields, "at": at}))
            if wrong:
                del read[name]  # or its missing secret would be another problem
        return {**data, "tokens": read}, errors

    @field_validator("hosts")
    @classmethod
    def _without_port(cls, hosts: list[str]) -> list[str]:
        for i, host in enumerate(hosts):
            if not _HOST.fullmatch(host):
                raise invalid("host", "write a name alone, as in tocsin.example.com", i)
        return hosts

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
    """The log of the running process."""

    level: Level = "info"
    """The lowest severity that is logged."""
    format: Literal["auto", "text", "logfmt", "json"] = "auto"
    """`auto`: text on a terminal, logfmt elsewhere. Text has colours there, unless NO_COLOR is set or TERM is dumb."""
    output: Text = "stderr"
    """`stderr`, `stdout`, or a file to append to."""

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
        """The options as they are in the file; the channel's type decides what they mean."""
        return dict(self.__pydantic_extra__ or {})


_SUBJECTS = ("relation", "query", "topic", "event")
_REQUIRED: list[JsonValue] = [{"required": [name]} for name in _SUBJECTS]


class AlertSettings(Settings):
    """One alert: the rows or events to watch, the columns that identify one, the gauge, and the channels to notify."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [*_REQUIRED, {"not": {"anyOf": _REQUIRED}}]})

    source: Text
    """The name of the source."""
    relation: Text | None = None
    """View or table to watch, as SQL writes it: `schema.view`, `"Mixed Case".view`. Either this or `query`."""
    query: Text | None = None
    """A SELECT to watch, used without changes."""
    topic: Text | None = None
    """The topic of a Kafka source. Default: the alert's name."""
    event: Text | None = None
    """The name of the events of another source of events. Default: the alert's name."""
    key: list[Column] | None = None
    """Columns that identify one firing. Default: the label columns, or the whole row without labels. Events with the
    same key are delivered in order; events without a key in any order."""
    labels: list[Column] | dict[str, Column] = Field(default_factory=list)
    """Columns that become labels of the gauge, under their own names or as `label: column`."""
    static_labels: dict[str, LabelValue] = Field(default_factory=dict)
    """Labels with the same value on every series of this alert."""
    value: Column | None = None
    """Column with the gauge's value: a number, a boolean, a moment or an interval. Default: 1 for each firing row."""
    metric: Text | None = None
    """Name of the gauge. Default: the alert's name."""
    help: str | None = None
    """The gauge's help text."""
    on_duplicate: OnDuplicate = "max"
    """The value where several rows have the same labels; `first` is that of the oldest row."""
    max_series: Annotated[int, Field(ge=1)] = 10_000
    """The most series of this alert that are served. The limit protects Prometheus from a mistake in a view."""
    linger: Duration = 0.0
    """How long a series is served with the value 0 after its row stopped firing."""
    hold: Duration = Field(default=0.0, alias="for")
    """How long a row must exist before it fires."""
    keep_firing_for: Duration = 0.0
    """How long a row keeps firing after it is gone. A row that comes back within this time is the same firing."""
    repeat_interval: Duration = 0.0
    """How often a row that keeps firing is notified again; `0`: never."""
    ignore: list[Column] = Field(default_factory=list)
    """Columns whose changes are not updates. No route of the alert may depend on one, by `when` or `group_by`."""
    initial: Initial = "notify"
    """Whether rows that exist at the very first start are notified."""
    dedupe_by: list[Column] = Field(default_factory=list)
    """Of events: the columns that make two events equal. Of equal events only the first within `dedupe_window` is sent.
    An event without one of the columns is always sent."""
    dedupe_window: Duration = 3600.0
    """How long equal events count as duplicates of the first one."""
    annotations: dict[str, Annotated[str, AfterValidator(_compiles)]] = Field(default_factory=dict)
    """Templates that go into every notification, by name."""
    gauges: bool = True
    """Whether firing rows become a gauge."""
    notify: list[str | Notify] = Field(default_factory=list)
    """Channels to notify: names, or mappings with `channel` and that channel's options for this alert."""

    @field_validator("relation")
    @classmethod
    def _is_a_name(cls, relation: str | None) -> str | None:
        if relation is not None and not _RELATION.fullmatch(relation):
            raise invalid(
                "relation", 'must be a name as in SQL: schema.name, with double quotes where needed: "My View"'
            )
        return relation

    @field_validator("query")
    @classmethod
    def _is_one_statement(cls, query: str | None) -> str | None:
        if query is not None and query.lstrip().upper().startswith(("SUBSCRIBE", "COPY", "DECLARE")):
            raise invalid("subscribe", "write the SELECT alone; Tocsin subscribes to it")
        return query

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        given = [name for name in _SUBJECTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise invalid("several_subjects", "set either {names}, not both", names=" or ".join(given))
        return self

    @property
    def label_columns(self) -> dict[str, str]:
        """Label name -> column."""
        return dict(self.labels) if isinstance(self.labels, dict) else {name: name for name in self.labels}

    @property
    def identity(self) -> list[str]:
        """The columns that identify a firing; none: the whole row."""
        return list(self.label_columns.values()) if self.key is None else self.key

    @property
    def channels(self) -> list[str]:
        """The names of the channels to notify."""
        return [entry if isinstance(entry, str) else entry.channel for entry in self.notify]

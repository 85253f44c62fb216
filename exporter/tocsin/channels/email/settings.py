"""The configuration of an email channel."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tocsin.channels.email.addresses import FromColumn, Name, Recipients, mailbox
from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.settings import Duration, Secret, invalid
from tocsin.templates import Template

Security = Literal["none", "starttls", "tls"]

DEFAULT_PORTS: dict[Security, int] = {"none": 25, "starttls": 587, "tls": 465}


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    from_: str = Field(alias="from")
    """The address that the mail comes from: `alerts@example.com` or `Alerts <alerts@example.com>`. The ids of the mails
    end in its domain."""

    to: list[Name | FromColumn] = Field(default_factory=list)
    """Addresses; templates such as `{{ row.team }}@example.com`, each of which makes one address or none; or `column:
    name` for all addresses in a column of the row. Nobody gets a mail twice, however often they are named."""

    cc: list[Name | FromColumn] = Field(default_factory=list)
    """Who gets a copy; written like `to`."""

    bcc: list[Name | FromColumn] = Field(default_factory=list)
    """Who gets a copy that the others do not see; written like `to`."""

    reply_to: list[Name | FromColumn] = Field(default_factory=list)
    """Where answers go, if not to `from`; written like `to`."""

    subject: str | None = None
    """The subject; a template. Without it, what happened and the annotation `summary`, or else alert and labels."""

    text: str | None = None
    """The mail as plain text; a template. Given without `html`, the mail is plain text only."""

    html: str | Literal[False] | None = None
    """The mail as HTML; a template, in which what comes from a row is escaped. `false`: plain text only."""

    @field_validator("from_")
    @classmethod
    def _is_an_address(cls, text: str) -> str:
        mailbox(text)
        return text

    @field_validator("to", "cc", "bcc", "reply_to")
    @classmethod
    def _are_addresses(cls, entries: list[str | FromColumn]) -> list[str | FromColumn]:
        Recipients(entries, "")
        return entries

    @field_validator("subject", "text", "html")
    @classmethod
    def _compiles(cls, text: Any, info: Any) -> Any:
        if isinstance(text, str):
            Template(text, place="", form="html" if info.field_name == "html" else "text")
        return text

    def missing(self) -> str | None:
        """What has to be said, for the channel or for the alert, before anything can be sent, as a sentence."""
        return None if self.to or self.cc or self.bcc else "nobody is named in to, cc or bcc"


class Config(ChannelConfig, Options):
    """Mail through an SMTP server. Needs the extra `email`: pip install 'tocsin[email]'."""

    package: ClassVar[str] = "aiosmtplib"

    secrets: ClassVar[tuple[str, ...]] = ("password",)

    type: Literal["email"]
    """The kind of channel."""

    host: Annotated[str, Field(min_length=1, pattern=r"^\S+$")]
    """The SMTP server."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Its port; by `security` 25 (`none`), 587 (`starttls`) or 465 (`tls`)."""

    security: Security = "starttls"
    """`starttls`: begin in the clear and refuse to go on without TLS; `tls`: TLS from the first byte; `none`: all in
    the clear, for a relay on this machine or in a network of one's own."""

    username: str | None = None
    """Who to log in as; without it, there is no login."""

    password: Secret | None = None
    """The password for `username`."""

    password_file: str | None = None
    """A file that holds the password."""

    tls_ca: str | None = None
    """A file of certificates (PEM) to trust instead of the system's, for a server with a certificate of one's own."""

    tls_verify: bool = True
    """Whether the server's certificate must be good and be for `host`. `false` lets anybody in between read along."""

    hello: Annotated[str, Field(pattern=r"^[!-~]+$")] | None = None
    """The name to greet the server with; without it, this machine's. Some servers want one that the DNS knows, which a
    container's name is not."""

    idle_timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """How long a connection is kept for the next mail."""

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if (self.username is None) != (self.password is None):
            raise ValueError("give username and password, or neither")
        if self.security == "none" and (self.tls_ca is not None or not self.tls_verify):
            raise invalid("no_tls", "none has no certificates; remove tls_ca and tls_verify", "security")
        return self

    @field_validator("password")
    @classmethod
    def _can_be_sent(cls, password: Secret | None) -> Secret | None:
        if password is not None and re.search(r"[\0\r\n]", password.get_secret_value()):
            raise ValueError("a password is one line")
        return password

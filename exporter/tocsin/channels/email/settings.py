"""The configuration of an email channel."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tocsin.channels.email.addresses import FromColumn, Recipients, mailbox
from tocsin.channels.settings import ChannelConfig, ChannelOptions, Name, Trial
from tocsin.settings import Duration, HostAlone, Secret, invalid
from tocsin.templates import Template, TemplateCode, TemplateError

Security = Literal["none", "starttls", "tls"]

DEFAULT_PORTS: dict[Security, int] = {"none": 25, "starttls": 587, "tls": 465}


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    templates: ClassVar[tuple[str, ...]] = ("subject", "text", "html")

    from_: str = Field(alias="from")
    """The sender: `alerts@example.com` or `Alerts <alerts@example.com>`. Message ids end in its domain."""

    to: list[Name | FromColumn] = Field(default_factory=list)
    """Addresses; templates such as `{{ row.team }}@example.com`, each of which makes one address or none; or `column:
    name` for all addresses in a column of the row. Each address gets the mail once, even if named several times."""

    cc: list[Name | FromColumn] = Field(default_factory=list)
    """Recipients of a copy; written like `to`."""

    bcc: list[Name | FromColumn] = Field(default_factory=list)
    """Recipients of a blind copy; written like `to`."""

    reply_to: list[Name | FromColumn] = Field(default_factory=list)
    """Where answers go, if not to `from`; written like `to`."""

    subject: str | None = None
    """The subject; a template. Default: the status and the annotation `summary`, or else alert and labels."""

    text: str | None = None
    """The mail as plain text; a template. Without `html`, the mail is plain text only."""

    html: str | Literal[False] | None = None
    """The mail as HTML; a template that escapes values of the row. `false`: plain text only."""

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
        """Return what is missing to send anything, as a sentence."""
        return None if self.to or self.cc or self.bcc else "set to, cc or bcc"


class Config(ChannelConfig, Options):
    """Mail through an SMTP server. Needs the extra `email`: pip install 'tocsin[email]'."""

    package: ClassVar[str] = "aiosmtplib"
    checked_by_building: ClassVar[bool] = True

    secrets: ClassVar[tuple[str, ...]] = ("password",)

    type: Literal["email"]
    """The kind of channel."""

    host: Annotated[str, Field(min_length=1, pattern=r"^\S+$"), HostAlone]
    """The SMTP server."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Its port; by `security` 25 (`none`), 587 (`starttls`) or 465 (`tls`)."""

    security: Security = "starttls"
    """`starttls`: connect in the clear and require STARTTLS; `tls`: TLS from the first byte; `none`: no encryption, for
    a relay on this machine or in a trusted network."""

    username: str | None = None
    """The user to log in as. Default: no login."""

    password: Secret | None = None
    """The password for `username`."""

    password_file: str | None = None
    """A file that holds the password."""

    tls_ca: str | None = None
    """A file of certificates (PEM) to trust instead of the system's, for a server with a private certificate."""

    tls_verify: bool = True
    """Whether the server's certificate must be good and be for `host`. `false` lets anyone in between read."""

    hello: Annotated[str, Field(pattern=r"^[!-~]+$")] | None = None
    """The name for EHLO. Default: this machine's. Some servers require a name in the DNS, which a container's name is
    not."""

    idle_timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """How long a connection is kept for the next mail."""

    def trial(self, options: Options) -> Trial:
        texts = super().trial(options)
        places = {
            f"{field}[{number}]": entry
            for field in ("to", "cc", "bcc", "reply_to")
            for number, entry in enumerate(getattr(options, field))
        }
        addresses = {
            place: template
            for place, entry in places.items()
            if isinstance(entry, str) and not (template := Template(entry, place=place)).constant
        }

        def faults(variables: Mapping[str, object]) -> Iterator[TemplateError]:
            for place, template in addresses.items():
                try:
                    if text := template.render(variables).strip():
                        mailbox(text)
                except TemplateError as error:
                    yield error
                except ValueError as error:
                    yield TemplateError(TemplateCode.UNFIT, place=place, detail=str(error))
            yield from texts(variables)

        return faults

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if (self.username is None) != (self.password is None):
            raise ValueError("set username and password together")
        if self.security == "none" and (self.tls_ca is not None or not self.tls_verify):
            raise invalid("no_tls", "none has no certificates; remove tls_ca and tls_verify", "security")
        return self

    @field_validator("password")
    @classmethod
    def _can_be_sent(cls, password: Secret | None) -> Secret | None:
        if password is not None and re.search(r"[\0\r\n]", password.get_secret_value()):
            raise ValueError("a password is one line")
        return password

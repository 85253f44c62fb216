"""The settings of an output to Alertmanager."""

import re
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tocsin.channels.settings import OutputConfig, RouteOptions, TemplateText
from tocsin.model import Kind
from tocsin.settings import Duration, Secret, invalid, plain

_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_LONGEST = 365 * 86400.0
"""Seconds. Far beyond it, `endsAt` would not be a date."""


class Options(RouteOptions):
    """The options of an output that an alert may override. Texts are templates over the envelope's keys."""

    templates: ClassVar[tuple[str, ...]] = ("alertname", "labels", "annotations", "generator_url")

    on: ClassVar[tuple[Kind, ...]] = tuple(Kind)
    interval: ClassVar[float] = 0.0
    group_by: ClassVar[tuple[str, ...]] = ()

    alertname: TemplateText | None = None
    """The label `alertname`. Default: the label of that name, or the alert's name."""

    labels: dict[_Name, TemplateText] = Field(default_factory=dict)
    """Labels in addition to those of the alert. Alertmanager identifies an alert by all its labels, so leave out values
    that change while a row fires."""

    annotations: dict[_Name, TemplateText] = Field(default_factory=dict)
    """Annotations in addition to those of the alert."""

    generator_url: TemplateText | None = None
    """The address that Alertmanager links to as the source of the alert."""


class Config(OutputConfig, Options):
    """One Alertmanager or a cluster. Each member is sent what fires now, again and again before it expires."""

    secrets: ClassVar[tuple[str, ...]] = ("password", "token")
    checked_by_building: ClassVar[bool] = True

    type: Literal["alertmanager"]
    """The kind of output."""

    urls: Annotated[tuple[Annotated[str, plain("list every address")], ...], Field(min_length=1)]
    """Addresses such as `http://alertmanager:9093`. List every member of a cluster: members do not forward alerts."""

    username: Annotated[str, Field(min_length=1)] | None = None
    """For basic authentication."""

    password: Secret | None = None
    """For basic authentication."""

    password_file: str | None = None
    """A file that holds the password."""

    token: Secret | None = None
    """A bearer token."""

    token_file: str | None = None
    """A file that holds the token."""

    tls_ca: str | None = None
    """A file of certificates to trust instead of the system's."""

    tls_cert: str | None = None
    """The client certificate, for servers that require one."""

    tls_key: str | None = None
    """The key of `tls_cert`, if it is in a separate file."""

    resend_interval: Annotated[Duration, Field(gt=0)] = 60.0
    """How often everything is sent again. An Alertmanager that restarts with an empty memory has every alert after
    this time."""

    expiry: Duration | None = None
    """How long an alert fires in Alertmanager if it is not sent again. Default: four times `resend_interval`."""

    max_alerts: Annotated[int, Field(ge=1)] = 10_000
    """The most firing alerts that are sent, so that a mistake in a view does not flood Alertmanager."""

    backoff_max: Annotated[Duration, Field(gt=0)] = 30.0
    """The longest wait between two attempts."""

    @field_validator("urls")
    @classmethod
    def _are_http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise invalid("address", "write whole addresses, such as http://alertmanager:9093")
            if parts.path.rstrip("/").endswith("/api/v2/alerts"):
                raise invalid("api_path", "write the address without /api/v2/alerts, which Tocsin adds")
            if parts.username or parts.password:
                raise invalid("user_info", "set user and password as username and password, not in the address")
        plain = tuple(url.rstrip("/") for url in urls)
        if len({*plain}) < len(plain):
            raise invalid("repeated", "an address is listed twice")
        return plain

    @field_validator("token", "password")
    @classmethod
    def _is_one_line(cls, secret: Secret | None) -> Secret | None:
        if secret is not None and re.search(r"[\0\r\n]", secret.get_secret_value()):
            raise invalid("one_line", "must be one line")
        return secret

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise invalid("needs", "set username and password, or neither")
        if self.username is not None and ":" in self.username:
            raise invalid("colon", "must not have a colon in it", "username")
        if self.username is not None and self.token is not None:
            raise invalid("not_both", "set username and password, or token, not both")
        if self.tls_key is not None and self.tls_cert is None:
            raise invalid("needs", "needs tls_cert", "tls_key")
        if self.expiry is not None and self.expiry < 2 * self.resend_interval:
            # One request that fails must not end an alert.
            raise invalid("too_short", "must be at least twice resend_interval", "expiry")
        if self.lasting > _LONGEST:
            raise invalid("too_long", "expiry, or four times resend_interval, must be at most a year")
        return self

    @property
    def lasting(self) -> float:
        """`expiry` with its default, in seconds."""
        return 4 * self.resend_interval if self.expiry is None else self.expiry

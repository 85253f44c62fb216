"""The configuration of an apprise channel."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.settings import Secret
from tocsin.templates import Template


def _lines(value: Any) -> Any:
    # Those from `urls_file` are one text.
    if isinstance(value, str):
        return [line for line in map(str.strip, value.splitlines()) if line and not line.startswith("#")]
    return value


Urls = Annotated[list[Secret], BeforeValidator(_lines)]

_SCHEMA = re.compile(r"[A-Za-z0-9]+://\S")


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    secrets: ClassVar[tuple[str, ...]] = ("urls",)

    urls: Urls = Field(default_factory=list)
    """Where to send, as Apprise writes it: `slack://...`, `tgram://...`, `twilio://...`. All of them are secrets. They
    may be templates, such as `twilio://sid:token@from/{{ row.phone }}`: what is printed is quoted, and an URL in which
    something prints nothing is left out."""

    urls_file: str | None = None
    """A file that holds the urls, one on each line; empty lines and those that begin with # are skipped."""

    title: str | None = None
    """The title; a template. Without it, what happened and the annotation `summary`, or else alert and labels. Services
    that know no titles get it as the first line."""

    body: str | None = None
    """The text below the title; a template. Without it, labels, value and time, and of a digest its first entries."""

    format: Literal["text", "markdown", "html"] = "text"
    """What `body` is written in. Apprise translates it into what each service takes. In `html`, what comes from a row
    is escaped."""

    @field_validator("urls")
    @classmethod
    def _are_urls(cls, urls: list[Secret]) -> list[Secret]:
        for number, url in enumerate(urls):
            text = url.get_secret_value()
            if not _SCHEMA.match(text) or not text.isprintable():
                raise ValueError(f"urls[{number}] is no URL; write the service first, as in slack://")
            Template(text, place=f"[{number}]", form="url")
        return urls

    @field_validator("title", "body")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        if text is not None:
            Template(text, place="")
        return text

    def missing(self) -> str | None:
        """What has to be said, for the channel or for the alert, before anything can be sent, as a sentence."""
        return None if self.urls else "no urls are given"


class Config(ChannelConfig, Options):
    """SMS, Slack, Discord, Telegram and more than a hundred other services, through the library Apprise. Needs the
    extra `apprise`: pip install 'tocsin[apprise]'."""

    package: ClassVar[str] = "apprise"

    type: Literal["apprise"]
    """The kind of channel."""

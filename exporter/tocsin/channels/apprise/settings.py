"""The configuration of an apprise channel."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from tocsin.channels.settings import ChannelConfig, ChannelOptions, Trial
from tocsin.redaction import masker
from tocsin.settings import Secret
from tocsin.templates import Template, TemplateCode, TemplateError


def _lines(value: Any) -> Any:
    # The content of `urls_file` is one text.
    if isinstance(value, str):
        return [line for line in map(str.strip, value.splitlines()) if line and not line.startswith("#")]
    return value


Urls = Annotated[list[Secret], BeforeValidator(_lines)]

_SCHEMA = re.compile(r"[A-Za-z0-9]+://\S")


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    templates: ClassVar[tuple[str, ...]] = ("title", "body")

    secrets: ClassVar[tuple[str, ...]] = ("urls",)

    urls: Urls = Field(default_factory=list)
    """Addresses of Apprise: `slack://...`, `tgram://...`, `twilio://...`. All of them are secrets. They may be
    templates, such as `twilio://sid:token@from/{{ row.phone }}`: values are quoted, and an URL with an empty value is
    left out."""

    urls_file: str | None = None
    """A file with the urls, one per line; empty lines and lines with # are skipped."""

    title: str | None = None
    """The title; a template. Default: the status and the annotation `summary`, or else alert and labels. Services
    without titles get it as the first line."""

    body: str | None = None
    """The text below the title; a template. Default: labels, value and time; for a digest its first entries."""

    format: Literal["text", "markdown", "html"] = "text"
    """The format of `body`. Apprise converts it for each service. In `html`, values of the row are escaped."""

    @field_validator("urls")
    @classmethod
    def _are_urls(cls, urls: list[Secret]) -> list[Secret]:
        for number, url in enumerate(urls):
            text = url.get_secret_value()
            if not _SCHEMA.match(text) or not text.isprintable():
                raise ValueError(f"urls[{number}] is not a valid URL; write the service first, as in slack://")
            Template(text, place=f"[{number}]", form="url")
        return urls

    @field_validator("title", "body")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        if text is not None:
            Template(text, place="")
        return text

    def missing(self) -> str | None:
        """Return what is missing to send anything, as a sentence."""
        return None if self.urls else "set urls"


class Config(ChannelConfig, Options):
    """SMS, Slack, Discord, Telegram and more than a hundred other services, through the library Apprise. Needs the
    extra `apprise`: pip install 'tocsin[apprise]'."""

    package: ClassVar[str] = "apprise"
    checked_by_building: ClassVar[bool] = True

    type: Literal["apprise"]
    """The kind of channel."""

    def trial(self, options: Options) -> Trial:
        texts, mask = super().trial(options), masker(part for url in options.urls for part in _parts(url))
        urls = [
            Template(url.get_secret_value(), place=f"urls[{number}]", form="url")
            for number, url in enumerate(options.urls)
        ]

        def faults(variables: Mapping[str, object]) -> Iterator[TemplateError]:
            yield from texts(variables)
            for url in urls:
                try:
                    url.render(variables)
                except TemplateError as error:
                    if error.code is not TemplateCode.EMPTY:  # an URL that is left out
                        yield error.masked(mask)

        return faults


def _parts(url: Secret) -> list[str]:
    """The parts of an URL outside of its expressions, which may be secrets."""
    return re.split(r"\{\{.*?\}\}|[/:@?&=]+", url.get_secret_value())

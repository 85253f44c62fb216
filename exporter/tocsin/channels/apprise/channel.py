"""The apprise channel: one message to each of its URLs, and which of them have it."""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tocsin.channels import defaults
from tocsin.channels.apprise.sends import Sends
from tocsin.channels.apprise.services import Service, check_schema, load, secrets_of
from tocsin.channels.apprise.settings import Config, Options
from tocsin.channels.base import Channel, Message, Rejected, Result
from tocsin.channels.settled import Settled
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.model import Kind
from tocsin.redaction import SECRET, masked, masker, one_line, redactor
from tocsin.settings import Secret
from tocsin.templates import Template, TemplateCode, TemplateError

_TITLE = 250
"""Characters of a title; a longer one is cut."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A title in plain text, and a body written in `form`."""

    title: str
    body: str
    form: str


class _Route:
    """Makes messages of the notifications of one alert."""

    def __init__(self, alert: str, options: Options) -> None:
        self._urls = [
            Template(url.get_secret_value(), place=f"{alert}: urls[{number}]", form="url")
            for number, url in enumerate(options.urls)
        ]
        self._title = defaults.default("subject")
        self._body, self._form = defaults.default("brief"), "text"
        if options.title is not None:
            self._title = Template(options.title, place=f"{alert}: title")
        if options.body is not None:
            self._form = options.format
            form: Literal["html", "text"] = "html" if options.format == "html" else "text"
            self._body = Template(options.body, place=f"{alert}: body", form=form)

    def text(self, message: Message) -> _Text:
        """Return title and body. Raises TemplateError."""
        variables = defaults.variables(message.envelope)
        title, body = one_line(self._title.render(variables), _TITLE), self._body.render(variables)
        # Apprise refuses an empty text.
        return _Text(title, body, self._form) if body.strip() else _Text("", title, "text")

    def urls(self, message: Message) -> tuple[list[str], str]:
        """Return the URLs, each once, and why one was left out. A digest goes to the URLs of all its notifications.
        Raises TemplateError."""
        urls: dict[str, None] = {}
        why = "no urls are configured"
        for envelope in message.envelope.get("merged", [message.envelope]):
            for template in self._urls:
                try:
                    urls[template.render({**envelope, "merged": [envelope]})] = None
                except TemplateError as error:
                    if error.code is not TemplateCode.EMPTY:
                        raise
                    why = str(error)
        return list(urls), why


class Apprise(Channel):
    """Sends one message to each URL, in threads: the library blocks."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options]) -> None:
        self._name = name
        self._timeout = config.timeout
        load()
        self._services: dict[str, Service] = {}
        problems = self._load(f"channels.{name}", config.urls)
        for alert, options in routes.items():
            problems += self._load(f"alerts.{alert}.notify", options.urls)
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        self._routes = {alert: _Route(alert, options) for alert, options in routes.items()}
        self._default = _Route(name, config)
        urls = {url.get_secret_value() for options in (config, *routes.values()) for url in options.urls}
        secrets = [part for url in urls for part in secrets_of(url, host=False)]
        self._redact = redactor(secrets)
        self._mask = masker(secrets)
        self._sends = Sends(f"tocsin-{name}", config.timeout, made=config.concurrency)
        self._settled = Settled(name, self._redact, shown=False)

    def __repr__(self) -> str:
        return f"Apprise({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    async def close(self) -> None:
        await self._sends.close()

    def preview(self, message: Message) -> Mapping[str, Any] | Rejected:
        route = self._routes.get(message.alert, self._default)
        try:
            text = route.text(message)
            urls, why = route.urls(message)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(str(error)))
        if not urls:
            return Rejected(Reason.NO_RECIPIENTS, self._redact(why))
        # Some services have a token in the place of the host.
        to = [f"{url.partition('://')[0]}://{SECRET}" for url in urls]
        return {"urls": to, **masked({"title": text.title, "body": text.body}, self._mask), "format": text.form}

    def _load(self, path: str, urls: Sequence[Secret]) -> list[Problem]:
        """Load the URLs that are not templates, each once."""
        problems = []
        for number, secret in enumerate(urls):
            url = secret.get_secret_value()
            try:
                if not Template(url, form="url").constant:
                    check_schema(url)
                elif url not in self._services:
                    self._services[url] = Service(url, self._timeout)
            except ValueError as error:
                problems.append(Problem(code="url", message=f"urls[{number}]: {error}", path=path))
        return problems

    async def _send(self, message: Message) -> Result:
        route = self._routes.get(message.alert, self._default)
        try:
            text = route.text(message)
            urls, why = route.urls(message)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(str(error)))
        if not urls:
            return Rejected(Reason.NO_RECIPIENTS, self._redact(why))
        waiting = self._settled.waiting(message.id, urls)
        results = await asyncio.gather(*(self._send_to(url, message, text) for url in waiting))
        return self._settled.result(message.id, dict(zip(waiting, results, strict=True)))

    async def _send_to(self, url: str, message: Message, text: _Text) -> Result:
        work = functools.partial(self._send_now, url, text, message.kind)
        # At once: this attempt may be over before it comes, and then the next one has it.
        settle = functools.partial(self._settled.add, message.id, url)
        return await self._sends.run(url, work, settle, made=url not in self._services)

    def _send_now(self, url: str, text: _Text, kind: Kind) -> Result:
        """Send to one URL in this thread."""
        try:
            service = self._services.get(url) or Service(url, self._timeout)
        except ValueError as error:
            return Rejected(Reason.REJECTED, str(error))
        return service.send(text.title, text.body, kind, text.form)

"""The apprise channel: one message to each of its URLs, and which of them have it."""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from tocsin.channels import defaults
from tocsin.channels.apprise.sends import Failure, Outcome, Sends
from tocsin.channels.apprise.services import Service, check_schema, load, secrets_of
from tocsin.channels.apprise.settings import Config, Options
from tocsin.channels.base import Channel, Delivered, Message, Rejected, Result, Retry
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.model import Kind
from tocsin.redaction import redactor
from tocsin.repeats import Repeats
from tocsin.settings import Secret
from tocsin.templates import Template, TemplateCode, TemplateError

log = structlog.get_logger(__name__)

_REMEMBERED = 10_000
_TITLE = 250
"""Characters of a title; a longer one is cut."""

_STILL_RUNNING = 5.0
"""Seconds until it is looked again whether a send that hangs has ended."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A title in plain text, and a body written in `form`."""

    title: str
    body: str
    form: str


class _Route:
    """What one alert sends, with its templates compiled."""

    def __init__(self, alert: str, options: Options) -> None:
        # The default text is plain, whatever a text of one's own is written in.
        self._form = "text" if options.body is None else options.format
        self.urls = [
            Template(url.get_secret_value(), place=f"{alert}: urls[{number}]", form="url")
            for number, url in enumerate(options.urls)
        ]
        self._title = (
            defaults.default("subject") if options.title is None else Template(options.title, place=f"{alert}: title")
        )
        self._body = (
            defaults.default("brief")
            if options.body is None
            else Template(options.body, place=f"{alert}: body", form="html" if options.format == "html" else "text")
        )

    def text(self, message: Message) -> _Text:
        """Title and body. Raises TemplateError."""
        variables = defaults.variables(message.envelope)
        title = " ".join("".join(c if c.isprintable() else " " for c in self._title.render(variables)).split())
        body = self._body.render(variables)
        # Apprise sends no empty text.
        return _Text(title[:_TITLE], body, self._form) if body.strip() else _Text("", title, "text")


class Apprise(Channel):
    """One message to each URL, in threads: the library blocks."""

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
        self._otherwise = _Route(name, config)
        urls = {url.get_secret_value() for options in (config, *routes.values()) for url in options.urls}
        self._redact = redactor([part for url in urls for part in secrets_of(url, host=False)])
        self._sends = Sends(f"tocsin-{name}", config.timeout, made=config.concurrency)
        # Of messages that are not done with: which URLs are, and how. A restart forgets this.
        self._settled: dict[str, dict[str, Outcome]] = {}
        self._refusals = Repeats(log, "recipient refused")
        # Of those that are split into pieces: which pieces an URL has. Message id and URL -> numbers.
        self._pieces: dict[tuple[str, str], set[int]] = {}

    def __repr__(self) -> str:
        return f"Apprise({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    async def close(self) -> None:
        await self._sends.close()

    def _load(self, path: str, urls: Sequence[Secret]) -> list[Problem]:
        """Load the URLs that are no templates, each once."""
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
        route = self._routes.get(message.alert, self._otherwise)
        try:
            text = route.text(message)
            urls, nobody = _urls(route, message)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(str(error)))
        if not urls:
            return Rejected(Reason.NO_RECIPIENTS, self._redact(nobody or "no urls are configured"))
        settled = self._settled.get(message.id, {})
        waiting = [url for url in urls if url not in settled]
        outcomes = await asyncio.gather(*(self._tell(url, message, text) for url in waiting))
        settled = settled | dict(zip(waiting, outcomes, strict=True))
        # What was settled meanwhile, perhaps by a send of an attempt before, has the last word.
        return self._result(message.id, settled | self._settled.pop(message.id, {}))

    async def _tell(self, url: str, message: Message, text: _Text) -> Outcome:
        return await self._sends.run(
            url,
            functools.partial(self._told, url, text, message.kind, self._accepted(message.id, url)),
            functools.partial(self._settle, message.id, url),
            made=url not in self._services,
        )

    def _accepted(self, id_: str, url: str) -> set[int]:
        accepted = self._pieces.setdefault((id_, url), set())
        while len(self._pieces) > _REMEMBERED:
            del self._pieces[next(iter(self._pieces))]
        return accepted

    def _told(self, url: str, text: _Text, kind: Kind, accepted: set[int]) -> Outcome:
        """Send to one URL, in this thread."""
        try:
            service = self._services.get(url) or Service(url, self._timeout)
        except ValueError as error:
            return Failure(Reason.REJECTED, str(error), final=True)
        failed = service.send(text.title, text.body, kind, text.form, accepted)
        return None if failed is None else Failure(Reason.SERVER_ERROR, failed)

    def _settle(self, id_: str, url: str, outcome: Outcome) -> None:
        """Remember for the next attempt what will not change, at once: this one may be given up before it ends."""
        if outcome is None or outcome.final:
            self._pieces.pop((id_, url), None)
            self._remember(id_, self._settled.pop(id_, {}) | {url: outcome})

    def _remember(self, id_: str, settled: dict[str, Outcome]) -> None:
        self._settled[id_] = settled
        while len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]

    def _result(self, id_: str, outcomes: dict[str, Outcome]) -> Result:
        failures = [failure for failure in outcomes.values() if failure is not None]
        again = [failure for failure in failures if not failure.final]
        have = len(outcomes) - len(failures)
        if again:
            self._remember(id_, {url: failure for url, failure in outcomes.items() if failure is None or failure.final})
            told = next((failure for failure in again if failure.begun), again[0])
            detail = told.detail if len(outcomes) == 1 else f"{have} of {len(outcomes)} have it; {told.detail}"
            # An attempt in which nothing could be begun is none.
            after = None if told.begun else _STILL_RUNNING
            return Retry(told.reason, self._redact(detail), after, free=not told.begun)
        refused = self._redact("; ".join(failure.detail for failure in failures))
        if not have:
            return Rejected(Reason.REJECTED, refused)
        if refused:
            self._refusals.add(refused, channel=self._name, id=id_, answer=refused)
        return Delivered(refused and f"refused: {refused}")


def _urls(route: _Route, message: Message) -> tuple[list[str], str]:
    """The URLs to send to, each once, and why one was left out. Of a digest: those that one of its notifications
    names. Raises TemplateError."""
    urls: dict[str, None] = {}
    nobody = ""
    for envelope in message.envelope.get("merged", [message.envelope]):
        for template in route.urls:
            try:
                urls[template.render({**envelope, "merged": [envelope]})] = None
            except TemplateError as error:
                if error.code is not TemplateCode.EMPTY:
                    raise
                nobody = str(error)
    return list(urls), nobody

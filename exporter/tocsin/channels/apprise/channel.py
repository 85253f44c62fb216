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
"""Seconds before checking again whether a hanging send has ended."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A title in plain text, and a body written in `form`."""

    title: str
    body: str
    form: str


class _Route:
    """Makes messages of the notifications of one alert."""

    def __init__(self, alert: str, options: Options) -> None:
        # The default text is plain.
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
        """Return title and body. Raises TemplateError."""
        variables = defaults.variables(message.envelope)
        title = " ".join("".join(c if c.isprintable() else " " for c in self._title.render(variables)).split())
        body = self._body.render(variables)
        # Apprise refuses an empty text.
        return _Text(title[:_TITLE], body, self._form) if body.strip() else _Text("", title, "text")


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
        self._redact = redactor([part for url in urls for part in secrets_of(url, host=False)])
        self._sends = Sends(f"tocsin-{name}", config.timeout, made=config.concurrency)
        # Message id -> URL -> final outcome, while some URLs are retried. A restart forgets it.
        self._settled: dict[str, dict[str, Outcome]] = {}
        self._refusals = Repeats(log, "recipient refused")
        # Message id and URL -> numbers of the pieces that were delivered, for messages that are split.
        self._pieces: dict[tuple[str, str], set[int]] = {}

    def __repr__(self) -> str:
        return f"Apprise({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    async def close(self) -> None:
        await self._sends.close()

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
            urls, why = _urls(route, message)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(str(error)))
        if not urls:
            return Rejected(Reason.NO_RECIPIENTS, self._redact(why or "no urls are configured"))
        settled = self._settled.get(message.id, {})
        waiting = [url for url in urls if url not in settled]
        outcomes = await asyncio.gather(*(self._send_to(url, message, text) for url in waiting))
        settled = settled | dict(zip(waiting, outcomes, strict=True))
        # A send of an earlier attempt may have ended meanwhile: its outcome counts.
        return self._result(message.id, settled | self._settled.pop(message.id, {}))

    async def _send_to(self, url: str, message: Message, text: _Text) -> Outcome:
        return await self._sends.run(
            url,
            functools.partial(self._send_now, url, text, message.kind, self._accepted(message.id, url)),
            functools.partial(self._settle, message.id, url),
            made=url not in self._services,
        )

    def _accepted(self, id_: str, url: str) -> set[int]:
        accepted = self._pieces.setdefault((id_, url), set())
        while len(self._pieces) > _REMEMBERED:
            del self._pieces[next(iter(self._pieces))]
        return accepted

    def _send_now(self, url: str, text: _Text, kind: Kind, accepted: set[int]) -> Outcome:
        """Send to one URL in this thread."""
        try:
            service = self._services.get(url) or Service(url, self._timeout)
        except ValueError as error:
            return Failure(Reason.REJECTED, str(error), final=True)
        failed = service.send(text.title, text.body, kind, text.form, accepted)
        return None if failed is None else Failure(Reason.SERVER_ERROR, failed)

    def _settle(self, id_: str, url: str, outcome: Outcome) -> None:
        """Store a final outcome for the next attempt at once: this attempt may be over before it ends."""
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
            shown = next((failure for failure in again if failure.begun), again[0])
            detail = shown.detail if len(outcomes) == 1 else f"{have} of {len(outcomes)} have it; {shown.detail}"
            # An attempt that started nothing does not count.
            after = None if shown.begun else _STILL_RUNNING
            return Retry(shown.reason, self._redact(detail), after, free=not shown.begun)
        refused = self._redact("; ".join(failure.detail for failure in failures))
        if not have:
            return Rejected(Reason.REJECTED, refused)
        if refused:
            self._refusals.add(refused, channel=self._name, id=id_, answer=refused)
        return Delivered(refused and f"refused: {refused}")


def _urls(route: _Route, message: Message) -> tuple[list[str], str]:
    """Return the URLs, each once, and why one was left out. A digest goes to the URLs of all its notifications. Raises
    TemplateError."""
    urls: dict[str, None] = {}
    why = ""
    for envelope in message.envelope.get("merged", [message.envelope]):
        for template in route.urls:
            try:
                urls[template.render({**envelope, "merged": [envelope]})] = None
            except TemplateError as error:
                if error.code is not TemplateCode.EMPTY:
                    raise
                why = str(error)
    return list(urls), why

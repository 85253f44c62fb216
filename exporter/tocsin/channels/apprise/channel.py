"""The apprise channel: one message to each of its URLs, and which of them have it."""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog

from tocsin.channels import Delivered, Message, Rejected, Result, Retry, defaults
from tocsin.channels.apprise.services import Log, Service, check_schema, load, secrets_of
from tocsin.channels.apprise.settings import Config, Options
from tocsin.channels.base import redactor
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.model import Kind
from tocsin.settings import Secret
from tocsin.templates import NothingPrintedError, Template, TemplateError

log = structlog.get_logger(__name__)

_REMEMBERED = 10_000
_TITLE = 250
"""Characters of a title; a longer one is cut."""


@dataclass(frozen=True, slots=True)
class _Text:
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class _Failure:
    """What became of one URL. `final`: nothing will change that."""

    reason: Reason
    detail: str
    final: bool = False


class _Route:
    """What one alert sends, with its templates compiled."""

    def __init__(self, alert: str, options: Options) -> None:
        # The default text is plain, whatever a text of one's own is written in.
        self.format = "text" if options.body is None else options.format
        self.urls = [
            Template(url.get_secret_value(), place=f"{alert}: urls[{number}]", form="url")
            for number, url in enumerate(options.urls)
        ]
        self._title = defaults.subject() if options.title is None else Template(options.title, place=f"{alert}: title")
        self._body = (
            defaults.brief()
            if options.body is None
            else Template(options.body, place=f"{alert}: body", form="html" if options.format == "html" else "text")
        )

    def text(self, message: Message) -> _Text:
        """Title and body. Raises TemplateError."""
        variables = defaults.variables(message.envelope)
        title = " ".join("".join(c if c.isprintable() else " " for c in self._title.render(variables)).split())
        body = self._body.render(variables)
        # Apprise sends no empty text.
        return _Text(title[:_TITLE], body) if body.strip() else _Text("", title)


class Apprise:
    """One message to each URL, in threads: the library blocks."""

    wants_earlier: AbstractSet[Kind] = frozenset()

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options]) -> None:
        self._name = name
        self._timeout = config.timeout
        load()
        self._log = Log()
        self._services: dict[str, Service] = {}
        problems = self._load(f"channels.{name}", config.urls)
        for alert, options in routes.items():
            problems += self._load(f"alerts.{alert}.notify", options.urls)
        if problems:
            self._log.close()
            raise ConfigError(list(dict.fromkeys(problems)))
        self._routes = {alert: _Route(alert, options) for alert, options in routes.items()}
        self._otherwise = _Route(name, config)
        urls = {url.get_secret_value() for options in (config, *routes.values()) for url in options.urls}
        self._redact = redactor([part for url in urls for part in secrets_of(url, host=False)])
        # Each URL has one send at a time, so that messages to it keep their order; none waits for another's thread.
        self._locks = {url: asyncio.Lock() for url in self._services}
        self._pool = ThreadPoolExecutor(config.concurrency + len(self._services), thread_name_prefix="apprise")
        # A thread cannot be stopped: the next attempt asks how the one before ended, and does not send twice.
        self._running: dict[tuple[str, str], Future[str | None]] = {}
        # Of messages that some URLs have to wait for: what became of the others. A restart forgets this.
        self._settled: dict[str, dict[str, _Failure | None]] = {}

    def __repr__(self) -> str:
        return f"Apprise({self._name!r})"

    def take(self, pending: int) -> int:
        return min(pending, 1)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._log.close()

    async def verify(self) -> list[str]:
        """Problems found by asking the services: there is no harmless question."""
        return []

    def _load(self, path: str, urls: Sequence[Secret]) -> list[Problem]:
        """Load the URLs that are no templates, each once."""
        problems = []
        for number, secret in enumerate(urls):
            url = secret.get_secret_value()
            try:
                if not Template(url, form="url").constant:
                    check_schema(url)
                elif url not in self._services:
                    self._services[url] = Service(url, self._timeout, self._log)
            except ValueError as error:
                problems.append(Problem(message=f"urls[{number}]: {error}", path=path))
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
        outcomes = await asyncio.gather(*(self._tell(url, message, text, route.format) for url in waiting))
        return self._result(message.id, settled | dict(zip(waiting, outcomes, strict=True)))

    async def _tell(self, url: str, message: Message, text: _Text, form: str) -> _Failure | None:
        """Send to one URL; None if that went well."""
        try:
            async with asyncio.timeout(self._timeout):
                late = self._running.get((message.id, url))
                if late is not None and await self._end_of(late, message, url) is None:
                    return None
                if url in self._locks:
                    async with self._locks[url]:
                        failed = await self._start(self._services[url], url, message, text, form)
                else:
                    service = await asyncio.to_thread(Service, url, self._timeout, self._log)
                    failed = await self._start(service, url, message, text, form)
        except TimeoutError:
            return _Failure(Reason.TIMEOUT, f"no answer within {self._timeout:g} s")
        except ValueError as error:
            return _Failure(Reason.REJECTED, str(error), final=True)
        return None if failed is None else _Failure(Reason.SERVER_ERROR, failed)

    async def _start(self, service: Service, url: str, message: Message, text: _Text, form: str) -> str | None:
        future = self._pool.submit(service.send, text.title, text.body, message.kind, form)
        self._running[message.id, url] = future
        _bound(self._running)
        return await self._end_of(future, message, url)

    async def _end_of(self, future: Future[str | None], message: Message, url: str) -> str | None:
        failed = await asyncio.shield(asyncio.wrap_future(future))
        self._running.pop((message.id, url), None)
        return failed

    def _result(self, id_: str, outcomes: dict[str, _Failure | None]) -> Result:
        failures = [failure for failure in outcomes.values() if failure is not None]
        self._settled.pop(id_, None)
        again = [failure for failure in failures if not failure.final]
        have = len(outcomes) - len(failures)
        if again:
            self._settled[id_] = {url: failure for url, failure in outcomes.items() if failure not in again}
            _bound(self._settled)
            detail = again[0].detail if len(outcomes) == 1 else f"{have} of {len(outcomes)} have it; {again[0].detail}"
            return Retry(again[0].reason, self._redact(detail))
        refused = self._redact("; ".join(failure.detail for failure in failures))
        if not have:
            return Rejected(Reason.REJECTED, refused)
        if refused:
            log.warning("recipient refused", channel=self._name, id=id_, answer=refused)
        return Delivered(refused and f"refused: {refused}")


def _bound(memory: dict[Any, Any]) -> None:
    while len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]


def _urls(route: _Route, message: Message) -> tuple[list[str], str]:
    """The URLs to send to, each once, and why one was left out. Of a digest: those that one of its notifications
    names. Raises TemplateError."""
    urls: dict[str, None] = {}
    nobody = ""
    for envelope in message.envelope.get("merged", [message.envelope]):
        for template in route.urls:
            try:
                urls[template.render({**envelope, "merged": [envelope]})] = None
            except NothingPrintedError as error:
                nobody = str(error)
    return list(urls), nobody

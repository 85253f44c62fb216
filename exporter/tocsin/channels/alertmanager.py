"""An output to Alertmanager: what fires now, told as Prometheus tells it.

Alertmanager takes an alert's `endsAt` as "fires until then unless I hear of it again", so each firing is told again
from time to time, and what nobody tells any more ends by itself.
"""

import base64
import io
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import AfterValidator, Field, field_validator, model_validator
from yarl import URL

from tocsin.channels import Delivered, Paused, Rejected, Result, Retry, Standing
from tocsin.channels.base import classify, condition, json_bytes, redactor, retry_after
from tocsin.envelope import Envelope, scope
from tocsin.errors import ConfigError, Problem, Reason
from tocsin.settings import Duration, Secret, Settings
from tocsin.templates import Template, TemplateError

MAX_BATCH = 64
"""Alerts in one request, as many as Prometheus long sent."""

MAX_BATCH_BYTES = 1024 * 1024
"""Bytes of alerts in one request; one alert that is larger goes alone."""

MAX_ANSWER = 16384
"""Bytes of an answer that are read."""

_LARGE = 65536

_BAD_ALERTS = (400, 413, 422)
"""Answers that are about what was sent. Seen on 0.25: 400 for a bad label, when it takes the other alerts of the
request; 400 and 422 for what is malformed, when it takes none."""

_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _compiles(text: str) -> str:
    try:
        Template(text, place="")
    except TemplateError as error:
        raise ValueError(str(error).removeprefix(": ")) from None
    return text


_Text = Annotated[str, AfterValidator(_compiles)]


class Options(Settings):
    """Settings of an output or of one alert. Texts are templates over the envelope's keys."""

    alertname: _Text | None = None
    """The label `alertname`. Without it, the label of that name, or else the alert's name."""

    labels: dict[_Name, _Text] = Field(default_factory=dict)
    """Labels beside those of the alert. They too decide which firings are one alert in Alertmanager: leave out what
    changes while a row fires."""

    annotations: dict[_Name, _Text] = Field(default_factory=dict)
    """Annotations beside those of the alert."""

    generator_url: _Text | None = None
    """Where a person can look at what caused the alert; Alertmanager links to it as its source."""

    when: str | None = None
    """An expression on the row, such as `row.severity == "page"`: only rows for which it holds are told."""

    @field_validator("when")
    @classmethod
    def _is_a_condition(cls, when: str | None) -> str | None:
        return condition(when)


class Config(Options):
    """One Alertmanager, or several that know of each other. Each is told what fires now, and told again before it would
    forget."""

    secrets: ClassVar[tuple[str, ...]] = ("password", "token")

    type: Literal["alertmanager"]
    """The kind of output."""

    urls: Annotated[tuple[str, ...], Field(min_length=1)]
    """Addresses such as `http://alertmanager:9093`. Of a cluster every one: they do not pass alerts on to each
    other."""

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
    """Our own certificate, where the server asks for one."""

    tls_key: str | None = None
    """The key of our certificate, if it is in a file of its own."""

    resend_interval: Annotated[Duration, Field(gt=0)] = 60.0
    """How often what fires is told again. An Alertmanager that restarts has forgotten everything, and knows it again
    after this time."""

    expiry: Duration | None = None
    """How long Alertmanager takes an alert to fire of which it hears nothing more. Without it, four times
    `resend_interval`."""

    max_alerts: Annotated[int, Field(ge=1)] = 10_000
    """The most firings that are told, so that a mistake in a view does not flood Alertmanager."""

    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """How long one request may take."""

    backoff_initial: Annotated[Duration, Field(gt=0)] = 1.0
    """The wait after the first failed attempt; it doubles from one to the next."""

    backoff_max: Annotated[Duration, Field(gt=0)] = 30.0
    """The longest wait between two attempts."""

    @field_validator("urls")
    @classmethod
    def _are_http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("write whole addresses, such as http://alertmanager:9093")
            if parts.username or parts.password:
                raise ValueError("write user and password as username and password, not in the address")
        plain = tuple(url.rstrip("/") for url in urls)
        if len({*plain}) < len(plain):
            raise ValueError("an address is given twice")
        return plain

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")
        if self.username is not None and ":" in self.username:
            raise ValueError("username: must not have a colon in it")
        if self.username is not None and self.token is not None:
            raise ValueError("give username and password, or token, not both")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key is the key of tls_cert; give that too")
        if self.backoff_max < self.backoff_initial:
            raise ValueError("backoff_max must not be less than backoff_initial")
        if self.expiry is not None and self.expiry < 2 * self.resend_interval:
            # One request that fails must not end an alert.
            raise ValueError("expiry: must be at least twice resend_interval")
        return self

    @property
    def lasting(self) -> float:
        """`expiry` with its default, in seconds."""
        return 4 * self.resend_interval if self.expiry is None else self.expiry


def build(
    name: str, config: Config, routes: Mapping[str, Options], *, now: Callable[[], float] = time.time
) -> "Alertmanager":
    """Make the output. `now` is the wall clock, for dates in `Retry-After`. Raises ConfigError for certificates that
    cannot be used."""
    found = problems(name, config, routes)
    if found:
        raise ConfigError(found)
    return Alertmanager(name, config, routes, now)


def problems(name: str, config: Config, _routes: Mapping[str, Options]) -> list[Problem]:
    """What is wrong with the certificates."""
    for key in ("tls_ca", "tls_cert", "tls_key"):
        path = getattr(config, key)
        if path is not None and not Path(path).is_file():
            return [Problem(message=f"there is no file {path}", path=f"channels.{name}.{key}")]
    try:
        _ssl(config)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or "it is not in PEM format"
        return [Problem(message=f"the certificates cannot be used: {why}", path=f"channels.{name}")]
    return []


class Alertmanager:
    """Puts firings into the shape of Alertmanager's API v2 and posts them."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self.receivers: Sequence[str] = config.urls
        self._name = name
        self._config = config
        self._now = now
        self._shapes = {alert: _Shape(alert, options) for alert, options in routes.items()}
        self._otherwise = _Shape(name, config)
        self._ssl = _ssl(config)
        self._session: aiohttp.ClientSession | None = None
        authorization = _authorization(config)
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": authorization} if authorization else {}
        secrets = [secret for secret in (config.password, config.token) if secret is not None]
        self._redact = redactor([*secrets, authorization])

    def __repr__(self) -> str:
        return f"Alertmanager({self._name!r})"

    def standing(self, envelope: Envelope, now: float) -> Standing:
        return self._shapes.get(envelope["alert"], self._otherwise).standing(envelope, now)

    async def push(self, receiver: str, standings: Sequence[Standing], now: float) -> Sequence[Result]:
        results: list[Result] = []
        for batch in _batches([self._alert(standing, now) for standing in standings]):
            results += await self._post(receiver, batch)
            if isinstance(results[-1], Retry | Paused):
                # It is about the receiver: the rest would fare no better.
                results += [results[-1]] * (len(standings) - len(results))
                break
        return results

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def verify(self) -> list[str]:
        """Problems found by asking each Alertmanager how it does."""
        found = []
        for url in self.receivers:
            result = await self._request("GET", f"{url}/api/v2/status", None)
            if not isinstance(result, Delivered):
                found.append(f"{url} does not answer as an Alertmanager: {result.detail}")
        return found

    def _alert(self, standing: Standing, now: float) -> bytes:
        ends = now + self._config.lasting if standing.ended_at is None else standing.ended_at
        assert isinstance(standing.content, bytes)
        return standing.content + f',"startsAt":"{_moment(standing.started_at)}","endsAt":"{_moment(ends)}"}}'.encode()

    async def _post(self, url: str, alerts: Sequence[bytes]) -> list[Result]:
        result = await self._request("POST", f"{url}/api/v2/alerts", b"[" + b",".join(alerts) + b"]")
        if len(alerts) > 1 and isinstance(result, Rejected):
            # One bad alert can keep the others out: find it.
            half = len(alerts) // 2
            first = await self._post(url, alerts[:half])
            if isinstance(first[-1], Retry | Paused):
                return [*first, *[first[-1]] * (len(alerts) - half)]
            return [*first, *await self._post(url, alerts[half:])]
        return [result] * len(alerts)

    async def _request(self, method: str, url: str, body: bytes | None) -> Result:
        try:
            # aiohttp sends bytes in one piece, which holds the loop when they are many; a file it sends in parts.
            data = io.BytesIO(body) if body is not None and len(body) > _LARGE else body
            async with self._connected().request(
                method, url, data=data, headers=self._headers, allow_redirects=False
            ) as response:
                if 200 <= response.status < 300:
                    return Delivered()
                text = (await response.content.read(MAX_ANSWER)).decode("utf-8", "replace")
                after = retry_after(response.headers.get("Retry-After"), self._now())
                return self._failure(response.status, self._redact(f"{response.status} {text}"), after)
        except TimeoutError:
            return Retry(Reason.TIMEOUT, f"no answer within {self._config.timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Retry(Reason.CONNECTION, self._redact(str(error) or type(error).__name__))

    @staticmethod
    def _failure(status: int, detail: str, after: float | None) -> Result:
        if 300 <= status < 400:
            return Paused(Reason.REJECTED, f"{status}: a redirect, which is not followed; set the final address")
        result = classify(status, detail, after)
        if isinstance(result, Rejected) and status not in _BAD_ALERTS:
            return Paused(result.reason, result.detail)  # whatever answers there is no Alertmanager
        return result

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._config.timeout),
                connector=aiohttp.TCPConnector(ssl=self._ssl),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _Shape:
    """How the firings of one alert look."""

    def __init__(self, alert: str, options: Options) -> None:
        def compiled(text: str | None, place: str) -> Template | None:
            return None if text is None else Template(text, place=f"{alert}: {place}")

        self._alertname = compiled(options.alertname, "alertname")
        self._generator_url = compiled(options.generator_url, "generator_url")
        self._labels = {key: Template(text, place=f"{alert}: labels.{key}") for key, text in options.labels.items()}
        self._annotations = {
            key: Template(text, place=f"{alert}: annotations.{key}") for key, text in options.annotations.items()
        }

    def standing(self, envelope: Envelope, now: float) -> Standing:
        variables = scope(envelope)
        labels = {_name(key): text for key, text in envelope["labels"].items()}
        if self._alertname is not None:
            labels["alertname"] = _rendered(self._alertname, variables)
        labels |= {key: _rendered(template, variables) for key, template in self._labels.items()}
        # An empty label is none, and an alert without a name is hard to route.
        labels = {key: text for key, text in labels.items() if text}
        labels.setdefault("alertname", envelope["alert"])
        labels = dict(sorted(labels.items()))
        annotations = {_name(key): text for key, text in envelope["annotations"].items()}
        annotations |= {key: _rendered(template, variables) for key, template in self._annotations.items()}
        shown: dict[str, object] = {"labels": labels, "annotations": annotations}
        url = None if self._generator_url is None else _url(_rendered(self._generator_url, variables))
        if url is not None:
            shown["generatorURL"] = url
        return Standing(
            identity=json.dumps(labels, separators=(",", ":")),
            content=json_bytes(shown)[:-1],
            # What began in the future, by our clock, or at no time that can be written, begins now.
            started_at=min(_seconds(envelope["started_at"], now), now),
        )


def _rendered(template: Template, variables: Mapping[str, object]) -> str:
    try:
        return template.render(variables)
    except TemplateError as error:
        return f"<error: {error}>"  # as the annotations in an envelope say it: it costs its own text, not the alert


def _name(key: str) -> str:
    """A name that every Alertmanager takes: before 0.27 none but these characters."""
    return re.sub(r"^(?=[0-9]|$)|[^A-Za-z0-9_]", "_", key)


def _url(text: str) -> str | None:
    """The address as Alertmanager takes it, which rejects whole requests for one that is not; None for none."""
    try:
        url = URL(text.strip())
    except ValueError:
        return None
    return str(url) if url.scheme in ("http", "https") and url.host else None


def _seconds(moment: str, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _batches(alerts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    batch: list[bytes] = []
    size = 0
    for alert in alerts:
        if batch and (len(batch) == MAX_BATCH or size + len(alert) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(alert)
        size += len(alert)
    if batch:
        yield batch


def _authorization(config: Config) -> str:
    if config.token is not None:
        return f"Bearer {config.token.get_secret_value()}"
    if config.username is not None and config.password is not None:
        credentials = f"{config.username}:{config.password.get_secret_value()}"
        return f"Basic {base64.b64encode(credentials.encode()).decode()}"
    return ""


def _ssl(config: Config) -> ssl.SSLContext | bool:
    """True: the system's certificates are trusted."""
    if config.tls_ca is None and config.tls_cert is None:
        return True
    context = ssl.create_default_context(cafile=config.tls_ca)
    if config.tls_cert is not None:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    return context

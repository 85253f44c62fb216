"""Requests to Alertmanager's API v2, and what the answers mean."""

import asyncio
import base64
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from tocsin.channels.alertmanager.alerts import Shape, encoded, identities
from tocsin.channels.alertmanager.settings import Config, Options
from tocsin.channels.base import ActiveAlert, Delivered, Level, Message, Paused, Rejected, Result, Retry
from tocsin.channels.batching import batched, isolate
from tocsin.channels.http import Answer, Client, classify
from tocsin.envelope import Envelope
from tocsin.model import Kind
from tocsin.redaction import SECRET, masked, masker, redactor

MAX_BATCH = 64
"""Alerts in one request, as many as Prometheus long sent."""

MAX_BATCH_BYTES = 1024 * 1024
"""Bytes of alerts in one request; one alert that is larger is sent alone."""

_MAX_KNOWN = 64 * 1024 * 1024
"""Bytes of the list of all its alerts that are read."""

_BAD_ALERTS = (400, 413, 422)
"""Statuses about the alerts. Seen on 0.25: 400 for a bad label, where it takes the other alerts of the request; 400 and
422 for a malformed alert, where it takes none."""


class Alertmanager(Level):
    """Renders alerts and posts them."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self.receivers: Sequence[str] = config.urls
        self._config = config
        self._now = now
        self._shapes = {alert: Shape(alert, options) for alert, options in routes.items()}
        self._default = Shape(name, config)
        self._client = Client(config.timeout, now, ssl=_tls(config))
        authorization = _authorization(config)
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": authorization} if authorization else {}
        secrets = [secret for secret in (config.password, config.token) if secret is not None]
        self._redact = redactor([*secrets, authorization])
        self._mask = masker([*secrets, authorization])

    def active(self, envelope: Envelope, now: float) -> ActiveAlert:
        return self._shapes.get(envelope["alert"], self._default).active(envelope, now)

    def preview(self, message: Message) -> Mapping[str, Any]:
        now = self._now()
        alert = self.active(message.envelope, now)
        if message.kind in (Kind.RESOLVED, Kind.EVENT):
            alert = replace(alert, ended_at=now)
        return {
            "method": "POST",
            "urls": [f"{url}/api/v2/alerts" for url in self.receivers],
            "headers": {name: SECRET if name == "Authorization" else text for name, text in self._headers.items()},
            "body": masked([json.loads(encoded(alert, self._config.lasting, now))], self._mask),
        }

    async def push(self, receiver: str, alerts: Sequence[ActiveAlert], now: float) -> Sequence[Result]:
        async def post(batch: Sequence[bytes]) -> Result:
            return await self._request("POST", f"{receiver}/api/v2/alerts", b"[" + b",".join(batch) + b"]")

        rendered = (encoded(alert, self._config.lasting, now) for alert in alerts)
        results: list[Result] = []
        for batch in batched(rendered, len, most=MAX_BATCH, most_bytes=MAX_BATCH_BYTES):
            results += await isolate(batch, post)
            if isinstance(results[-1], Retry | Paused):
                # The receiver fails: the rest would fail too.
                return [*results, *[results[-1]] * (len(alerts) - len(results))]
        return results

    async def known(self, receiver: str) -> AbstractSet[str] | None:
        answer = await self._client.fetch(f"{receiver}/api/v2/alerts", headers=self._headers, most=_MAX_KNOWN)
        return None if answer is None else await asyncio.to_thread(identities, answer)

    async def close(self) -> None:
        await self._client.close()

    async def verify(self) -> list[str]:
        """Ask each Alertmanager for its status; a sentence for each that does not answer as one."""
        found = []
        for url in self.receivers:
            result = await self._request("GET", f"{url}/api/v2/status", None)
            if not isinstance(result, Delivered):
                found.append(f"{url} does not answer as an Alertmanager: {result.detail}")
        return found

    async def _request(self, method: str, url: str, body: bytes | None) -> Result:
        answer = await self._client.request(method, url, headers=self._headers, body=body, redact=self._redact)
        status = answer.status if isinstance(answer, Answer) else 0
        result = classify(status, answer.detail, answer.after) if isinstance(answer, Answer) else answer
        if isinstance(result, Rejected) and status not in _BAD_ALERTS:
            return Paused(result.reason, result.detail)  # what answers is not an Alertmanager
        return result


def _authorization(config: Config) -> str:
    if config.token is not None:
        return f"Bearer {config.token.get_secret_value()}"
    if config.username is not None and config.password is not None:
        credentials = f"{config.username}:{config.password.get_secret_value()}"
        return f"Basic {base64.b64encode(credentials.encode()).decode()}"
    return ""


def _tls(config: Config) -> ssl.SSLContext | bool:
    """The TLS context; True: the system's certificates are trusted. Raises OSError (ssl.SSLError is one) for
    certificates that cannot be used."""
    if config.tls_ca is None and config.tls_cert is None:
        return True
    context = ssl.create_default_context(cafile=config.tls_ca)
    if config.tls_cert is not None:
        # Without a password OpenSSL asks for that of a protected key at the terminal, if there is one.
        context.load_cert_chain(config.tls_cert, config.tls_key, password="")
    return context

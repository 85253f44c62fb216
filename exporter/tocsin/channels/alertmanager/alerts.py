"""What Alertmanager is told of a firing."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from yarl import URL

from tocsin.channels.alertmanager.settings import Options
from tocsin.channels.base import Standing
from tocsin.channels.http import json_bytes
from tocsin.envelope import Envelope, scope
from tocsin.templates import Template, TemplateError

MAX_BATCH = 64
"""Alerts in one request, as many as Prometheus long sent."""

MAX_BATCH_BYTES = 1024 * 1024
"""Bytes of alerts in one request; one alert that is larger goes alone."""


class Shape:
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
        """The firing by its labels, and all that is told of it but the times."""
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


def written(standing: Standing, lasting: float, now: float) -> bytes:
    """A firing as the API takes it, which goes on for `lasting` seconds if nothing more is heard of it; or its end."""
    assert isinstance(standing.content, bytes)
    # By a clock that was set back, it may have begun or ended in the future, which would be refused, or go on firing.
    ends = now + lasting if standing.ended_at is None else min(standing.ended_at, now)
    starts = min(standing.started_at, ends, now)
    return standing.content + f',"startsAt":"{_moment(starts)}","endsAt":"{_moment(ends)}"}}'.encode()


def batches(alerts: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    """The alerts of one request after the other."""
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

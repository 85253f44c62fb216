"""From a firing to an alert of Alertmanager's API v2."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from yarl import URL

from tocsin.channels.alertmanager.settings import Options
from tocsin.channels.base import ActiveAlert
from tocsin.channels.http import json_bytes
from tocsin.envelope import Envelope, scope
from tocsin.templates import Template, TemplateError


class Shape:
    """How the firings of one alert look."""

    def __init__(self, alert: str, options: Options) -> None:
        def compiled(texts: Mapping[str, str], place: str) -> dict[str, Template]:
            return {name: Template(text, place=f"{alert}: {place}{name}") for name, text in texts.items()}

        fields = {"alertname": options.alertname, "generator_url": options.generator_url}
        self._fields = compiled({name: text for name, text in fields.items() if text is not None}, "")
        self._labels = compiled(options.labels, "labels.")
        self._annotations = compiled(options.annotations, "annotations.")

    def active(self, envelope: Envelope, now: float) -> ActiveAlert:
        """The firing, identified by its labels."""
        variables = scope(envelope)
        fields = _rendered(self._fields, variables)
        labels = {_name(key): text for key, text in envelope["labels"].items()}
        if "alertname" in fields:
            labels["alertname"] = fields["alertname"]
        labels |= _rendered(self._labels, variables)
        # For Alertmanager an empty label is none, and an alert without a name is hard to route.
        labels = {key: text for key, text in labels.items() if text}
        labels.setdefault("alertname", envelope["alert"])
        annotations = {_name(key): text for key, text in envelope["annotations"].items()}
        content: dict[str, object] = {
            "labels": labels,
            "annotations": annotations | _rendered(self._annotations, variables),
        }
        if (url := _url(fields.get("generator_url", ""))) is not None:
            content["generatorURL"] = url
        return ActiveAlert(
            identity=_identity(labels),
            content=json_bytes(content)[:-1],
            # A start in the future by this clock, or one that is no date, becomes now.
            started_at=min(_seconds(envelope["started_at"], now), now),
        )


def identities(answer: bytes) -> frozenset[str] | None:
    """The identities of the alerts in an answer of `GET /api/v2/alerts`; None if it is not such an answer."""
    try:
        return frozenset(_identity(alert["labels"]) for alert in json.loads(answer))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _identity(labels: Mapping[str, str]) -> str:
    text = json.dumps(dict(sorted(labels.items())), ensure_ascii=False, separators=(",", ":"))
    return re.sub(
        "[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text
    )  # as Alertmanager reads half of a surrogate pair


def encoded(alert: ActiveAlert, expiry: float, now: float) -> bytes:
    """An alert as the API takes it. It ends `expiry` seconds from now if it is not sent again, or has ended."""
    # After the clock was set back, start or end may be in the future: refused, or taken for an alert that fires.
    ends = now + expiry if alert.ended_at is None else min(alert.ended_at, now)
    starts = min(alert.started_at, ends, now)
    return alert.content + f',"startsAt":"{_moment(starts)}","endsAt":"{_moment(ends)}"}}'.encode()


def _rendered(templates: Mapping[str, Template], variables: Mapping[str, object]) -> dict[str, str]:
    found = {}
    for name, template in templates.items():
        try:
            found[name] = template.render(variables)
        except TemplateError as error:
            found[name] = f"<error: {error}>"  # as in annotations: an error costs one text, not the alert
    return found


def _name(key: str) -> str:
    """A name that every Alertmanager takes: before 0.27 only these characters."""
    return re.sub(r"^(?=[0-9]|$)|[^A-Za-z0-9_]", "_", key)


def _url(text: str) -> str | None:
    """A valid address, or None: Alertmanager rejects a whole request for an invalid one."""
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

"""Templates of channels tried out on a notification that never was, when the configuration is read.

Nothing is asked of a server, so nothing is known of the columns of a row: whatever a template does with them works.
What fails in spite of that fails for sure: a label or an annotation that the alert does not have, a text that is no
JSON whatever stands in it. `tocsin check --online` tries the same on a real row.
"""

import re
from collections.abc import Iterator
from typing import Any

from tocsin.alert import Alert, EventAlert
from tocsin.channels.settings import Trial
from tocsin.config.resolved import ChannelConfig, Config
from tocsin.errors import Problem
from tocsin.model import Kind
from tocsin.templates import FixedNames, TemplateCode, TemplateError


def problems(config: Config) -> list[Problem]:
    """What is wrong with the templates of all channels that can tell, each with its alert or channel."""
    found: dict[Problem, None] = {}
    trials: dict[str, Trial] = {}
    for alert in config.alerts.values():
        for name in alert.notify:
            channel = config.channels[name]
            if not kinds(channel, alert):
                place = f"alerts.{alert.name}.notify[{alert.notify.index(name)}]"
                found[config.problem(f"{name} would never be told: `on` has no kind that this alert gives", place)] = (
                    None
                )
                continue
            trial = _trial(channel, alert, trials)
            for kind in kinds(channel, alert):
                variables, told = _made_up(alert, kind), set()
                for fault in trial(variables):
                    if fault.place not in told and certain(fault, kind):
                        told.add(fault.place)
                        found[problem(config, alert, name, fault, "")] = None
    return list(found)


def kinds(channel: ChannelConfig, alert: Alert) -> list[Kind]:
    """The kinds of notifications that the alert gives this channel."""
    on = channel.routes[alert.name].on
    if isinstance(alert, EventAlert):
        never = set(Kind) - {Kind.EVENT}
    else:
        never = {Kind.EVENT} if alert.repeat_interval else {Kind.EVENT, Kind.REPEATED}
    return [kind for kind in Kind if kind in on and kind not in never]


def problem(config: Config, alert: Alert, channel: str, fault: TemplateError, tried: str) -> Problem:
    """A fault at its line: in the alert if that says it itself, else in the channel, with the alert's name."""
    setting = re.match(r"\w*", fault.place)
    own = f"alerts.{alert.name}.notify[{alert.notify.index(channel)}]"
    if setting is not None and f"{own}.{setting[0]}" in config.places:
        return config.problem(fault.message + (f" ({tried})" if tried else ""), f"{own}.{fault.place}")
    words = f"{tried} of alert {alert.name}" if tried else f"for alert {alert.name}"
    return config.problem(f"{fault.message} ({words})", f"channels.{channel}.{fault.place}")


def _trial(channel: ChannelConfig, alert: Alert, made: dict[str, Trial]) -> Trial:
    options = channel.routes[alert.name]
    key = f"{channel.name} {options!r}"  # most alerts use the channel's options as they are
    if key not in made:
        made[key] = channel.settings.trial(options)
    return made[key]


def certain(fault: TemplateError, kind: Kind) -> bool:
    """Whether a template fails whatever is in the row."""
    if fault.code is TemplateCode.UNKNOWN_KEY:
        return fault.name == kind.value  # a mapping by `status` that lacks one
    return fault.code in (TemplateCode.UNKNOWN_NAME, TemplateCode.UNSET_VARIABLE, TemplateCode.NOT_JSON)


def _made_up(alert: Alert, kind: Kind) -> dict[str, Any]:
    one = _Anything(1)
    moment = "2026-01-02T03:04:05.000Z"
    envelope: dict[str, Any] = {
        "id": "0" * 32,
        "alert": alert.name,
        "status": kind.value,
        "fingerprint": "0" * 32,
        "started_at": moment,
        "at": moment,
        "labels": FixedNames({**dict.fromkeys(alert.labels, one), **alert.static_labels}),
        "value": None if alert.value is None else one,
        "row": _AnyRow(),
        "previous": _AnyRow() if kind is Kind.UPDATED else None,
        "annotations": FixedNames(dict.fromkeys(alert.annotations, one)),
    }
    return {**envelope, "merged": [FixedNames(envelope)]}


class _Anything(int):
    """Stands for a value of which nothing is known: it has every attribute and every part, and prints as a number,
    which is good JSON inside of quotes and outside."""

    def __getattr__(self, name: str) -> "_Anything":
        if name.startswith("_") or name in ("unsafe_callable", "alters_data"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: object) -> "_Anything":
        return self

    def __call__(self, *_: object, **__: object) -> "_Anything":
        return self

    def __iter__(self) -> Iterator["_Anything"]:
        return iter((self,))

    def __len__(self) -> int:
        return 1


class _AnyRow(dict[str, _Anything]):
    """A row with every column."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> _Anything:
        return _Anything(1)

    def get(self, *_: object) -> _Anything:
        return _Anything(1)

"""What channels for people say where the configuration does not say it: templates over the envelope, and `lasted`
(seconds, or nothing where that is not known) beside it.
"""

import functools
from collections.abc import Mapping
from datetime import datetime

from tocsin.envelope import Envelope, scope
from tocsin.templates import VARIABLES, Template

LISTED = 100
"""How many merged notifications a mail lists."""

_WORDS = """\
{%- set words = {"fired": "Fired", "updated": "Changed", "resolved": "Resolved", "repeated": "Still firing",
                 "event": "Event"} -%}
{%- set kinds = ["fired", "event", "updated", "repeated", "resolved"] -%}
"""

_SUBJECT = (
    _WORDS
    + """\
{%- if merged | length > 1 -%}
{{ alert }}: {{ merged | length }} notifications (
{%- for kind in kinds if merged | selectattr("status", "equalto", kind) | list -%}
{{ "" if loop.first else ", " }}{{ merged | selectattr("status", "equalto", kind) | list | length }}{{ " " -}}
{{ words[kind] | lower }}
{%- endfor %})
{%- else -%}
{{ words[status] }}: {% if annotations.summary is defined %}{{ annotations.summary }}{% else -%}
{{ alert }}{% for name, text in labels.items() %}{{ " (" if loop.first else ", " }}{{ name }} {{ text }}
{{- ")" if loop.last else "" }}{% endfor %}{% endif -%}
{%- endif -%}
"""
)

_TEXT = (
    _WORDS
    + """\
{%- macro moment(text) %}{{ text[:19] | replace("T", " ") }} UTC{% endmacro -%}
{%- macro shown(item) -%}
{{ "-" if item is none else (item if item is string else item | json) | truncate(300, True, "...", 0) }}
{%- endmacro -%}
{%- if merged | length > 1 -%}
{{ merged | length }} notifications of {{ alert }}
{% for one in merged[:listed] %}
{{ moment(one.at) }}  {{ words[one.status] }}
{%- if one.annotations.summary is defined %}
    {{ one.annotations.summary }}
{%- endif %}
    {% for name, text in one.labels.items() %}{{ "" if loop.first else ", " }}{{ name }} {{ shown(text) }}{% endfor %}
{%- if one.value is not none %}{{ ", " if one.labels else "" }}value {{ one.value }}{% endif %}
{% endfor %}
{%- if merged | length > listed %}
and {{ merged | length - listed }} more
{% endif %}
{%- else -%}
{{ words[status] }}: {{ alert }}
{% if annotations.summary is defined %}
{{ annotations.summary }}
{% endif %}
{%- if annotations.description is defined %}
{{ annotations.description }}
{% endif %}
{%- if status == "event" %}
at {{ moment(at) }}
{% else %}
since {{ moment(started_at) }}
{%- if status != "fired" %}
{{ words[status] | lower }} at {{ moment(at) }}
{%- if lasted is not none %}, after {{ lasted | humanize_duration }}{% endif %}
{%- endif %}
{% endif %}
{% if value is not none %}value: {{ value }}
{% endif %}
{%- for name, text in labels.items() if name not in row %}{{ name }}: {{ shown(text) }}
{% endfor %}
{%- for name, item in row.items() %}
{{- name }}: {{ shown(item) }}
{%- if previous is not none and name in previous and previous[name] != item %} (was {{ shown(previous[name]) }})
{%- endif %}
{% endfor %}
{%- for name, text in annotations.items() if name not in ("summary", "description") %}
{{- name }}: {{ text }}
{% endfor %}
{%- endif %}
--{{ " " }}
{{ alert }}, notification {{ id }}
"""
)

_BRIEF = (
    _WORDS
    + """\
{%- macro moment(text) %}{{ text[:19] | replace("T", " ") }} UTC{% endmacro -%}
{%- macro about(one) -%}
{%- for name, text in one.labels.items() %}{{ "" if loop.first else ", " }}{{ name }} {{ text | truncate(100, True) }}
{%- endfor -%}
{%- if one.value is not none %}{{ ", " if one.labels else "" }}value {{ one.value }}{% endif -%}
{%- endmacro -%}
{%- if merged | length > 1 -%}
{% for one in merged[:10] -%}
{{ words[one.status] }}: {{ one.annotations.summary if one.annotations.summary is defined else about(one) }}
{% endfor -%}
{%- if merged | length > 10 %}and {{ merged | length - 10 }} more
{% endif -%}
{%- else -%}
{%- if annotations.description is defined %}{{ annotations.description }}
{% endif -%}
{%- if labels or value is not none %}{{ about(merged[0]) }}
{% endif -%}
{%- if status == "event" %}at {{ moment(at) }}{% else %}since {{ moment(started_at) }}
{%- if status != "fired" and lasted is not none %}, {{ words[status] | lower }} after {{ lasted | humanize_duration }}
{%- endif %}
{%- endif %}
{%- endif %}
"""
)

_HTML = (
    _WORDS
    + """\
{%- set colors = {"fired": "#b42318", "updated": "#b54708", "resolved": "#067647", "repeated": "#b42318",
                  "event": "#175cd3"} -%}
{%- macro moment(text) %}{{ text[:19] | replace("T", " ") }} UTC{% endmacro -%}
{%- macro shown(item) -%}
{{ "-" if item is none else (item if item is string else item | json) | truncate(300, True, "…", 0) }}
{%- endmacro -%}
{%- set grey = "color:#667085" -%}
{%- set cell = "padding:4px 12px 4px 0;vertical-align:top;border-top:1px solid #98a2b344;text-align:left" -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{{ alert }}</title>
</head>
<body style="margin:0;padding:16px;font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif">
<div style="max-width:640px;margin:0 auto;padding:4px 0 4px 16px;border-left:4px solid {{ colors[status] }}">
{% if merged | length > 1 -%}
<h1 style="font-size:20px;line-height:1.3;margin:0 0 12px">{{ merged | length }} notifications of {{ alert }}</h1>
<table style="border-collapse:collapse;font-size:14px">
{% for one in merged[:listed] -%}
<tr>
<td style="{{ cell }};white-space:nowrap;{{ grey }}">{{ moment(one.at) }}</td>
<td style="{{ cell }};white-space:nowrap;font-weight:600;color:{{ colors[one.status] }}">{{ words[one.status] }}</td>
<td style="{{ cell }};overflow-wrap:anywhere">
{%- if one.annotations.summary is defined %}{{ one.annotations.summary }}<br>{% endif -%}
<span style="{{ grey }}">
{%- for name, text in one.labels.items() %}{{ name }} {{ shown(text) }}{{ ", " if not loop.last else "" }}{% endfor -%}
{%- if one.value is not none %}{{ ", " if one.labels else "" }}value {{ one.value }}{% endif -%}
</span></td>
</tr>
{% endfor -%}
</table>
{% if merged | length > listed %}<p>and {{ merged | length - listed }} more</p>{% endif %}
{% else -%}
<p style="margin:0;font-weight:600;color:{{ colors[status] }}">{{ words[status] }}
<span style="font-weight:400;{{ grey }}">{{ alert }}</span></p>
<h1 style="font-size:20px;line-height:1.3;margin:4px 0 8px;overflow-wrap:anywhere">
{%- if annotations.summary is defined %}{{ annotations.summary }}{% else -%}
{% for text in labels.values() %}{{ text }}{{ ", " if not loop.last else "" }}{% else %}{{ alert }}{% endfor -%}
{% endif %}</h1>
{% if annotations.description is defined %}<p style="margin:0 0 8px">{{ annotations.description }}</p>{% endif -%}
<p style="margin:0 0 12px;{{ grey }}">
{%- if status == "event" %}at {{ moment(at) }}{% else %}since {{ moment(started_at) }}
{%- if status != "fired" %}<br>{{ words[status] | lower }} at {{ moment(at) }}
{%- if lasted is not none %}, after {{ lasted | humanize_duration }}{% endif %}
{%- endif %}
{%- endif %}</p>
<table style="border-collapse:collapse;font-size:14px">
{%- if value is not none %}
<tr><th style="{{ cell }};{{ grey }};font-weight:400">value</th>
<td style="{{ cell }};font-weight:600">{{ value }}</td></tr>
{%- endif %}
{%- for name, text in labels.items() if name not in row %}
<tr><th style="{{ cell }};{{ grey }};font-weight:400">{{ name }}</th>
<td style="{{ cell }};overflow-wrap:anywhere">{{ shown(text) }}</td></tr>
{%- endfor %}
{%- for name, item in row.items() %}
{%- set changed = previous is not none and name in previous and previous[name] != item %}
<tr><th style="{{ cell }};{{ grey }};font-weight:400">{{ name }}</th>
<td style="{{ cell }};overflow-wrap:anywhere">{% if changed %}<b>{{ shown(item) }}</b>
<span style="{{ grey }}">was {{ shown(previous[name]) }}</span>{% else %}{{ shown(item) }}{% endif %}</td></tr>
{%- endfor %}
{%- for name, text in annotations.items() if name not in ("summary", "description") %}
<tr><th style="{{ cell }};{{ grey }};font-weight:400">{{ name }}</th><td style="{{ cell }};overflow-wrap:anywhere">
{%- if text.startswith(("https://", "http://")) %}<a href="{{ text }}">{{ text }}</a>{% else %}{{ text }}{% endif -%}
</td></tr>
{%- endfor %}
</table>
{% endif -%}
<p style="margin:16px 0 0;font-size:12px;{{ grey }}">{{ alert }}, notification {{ id }}</p>
</div>
</body>
</html>
"""
)


@functools.cache
def subject() -> Template:
    """The subject. Compiled once for all alerts: that takes a while."""
    return Template(_SUBJECT, place="the default subject", known=_KNOWN)


@functools.cache
def text() -> Template:
    """The plain text."""
    return Template(_TEXT, place="the default text", known=_KNOWN)


@functools.cache
def brief() -> Template:
    """A few lines of text to stand below the subject, for a chat or a telephone."""
    return Template(_BRIEF, place="the default body", known=_KNOWN)


@functools.cache
def html() -> Template:
    """The HTML."""
    return Template(_HTML, place="the default html", known=_KNOWN, form="html")


_KNOWN = VARIABLES | {"lasted", "listed"}


def variables(envelope: Envelope) -> Mapping[str, object]:
    """What these templates see."""
    return {**scope(envelope), "lasted": _lasted(envelope), "listed": LISTED}


def _lasted(envelope: Envelope) -> float | None:
    try:
        took = datetime.fromisoformat(envelope["at"]) - datetime.fromisoformat(envelope["started_at"])
    except ValueError:  # beyond the year 9999 a time is its number
        return None
    return took.total_seconds()

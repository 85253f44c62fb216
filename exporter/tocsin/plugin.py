"""What a further type of channel or source is made of (docs/python-api.md).

A package registers a module as an entry point of the group `tocsin.channels` or `tocsin.sources`, whose name is the
type. A channel's module has `Options`, `Config` and `build(name, config, routes) -> Channel`; a source's module has
`Config` and `build(name, config) -> Source | EventSource`. These names keep their meaning within a major version.
"""

from tocsin.channels.base import Channel, Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.channels.settings import ChannelConfig, ChannelOptions, TemplateText
from tocsin.envelope import Envelope
from tocsin.errors import ConfigError, Problem, Reason, RefusedReason, SourceError, SourceReason
from tocsin.model import Batch, Column, Columns, Event, Kind, Row, Update
from tocsin.settings import Duration, Secret
from tocsin.sources.base import EventBatch, EventSource, EventStream, Refused, Source, Stream, Subject
from tocsin.sources.documents import row_of
from tocsin.sources.settings import EventSourceSettings, RowSourceSettings
from tocsin.templates import Template, TemplateError

__all__ = [
    "Batch",
    "Channel",
    "ChannelConfig",
    "ChannelOptions",
    "Column",
    "Columns",
    "ConfigError",
    "Delivered",
    "Duration",
    "Envelope",
    "Event",
    "EventBatch",
    "EventSource",
    "EventSourceSettings",
    "EventStream",
    "Kind",
    "Message",
    "Paused",
    "Problem",
    "Reason",
    "Refused",
    "RefusedReason",
    "Rejected",
    "Result",
    "Retry",
    "Row",
    "RowSourceSettings",
    "Secret",
    "Source",
    "SourceError",
    "SourceReason",
    "Stream",
    "Subject",
    "Template",
    "TemplateError",
    "TemplateText",
    "Update",
    "row_of",
]

"""Text, JSON and conditions made from a notification, in Jinja2."""

from tocsin.templates.environment import MAX_TEXT
from tocsin.templates.filters import duration
from tocsin.templates.template import (
    VARIABLES,
    Condition,
    NothingPrintedError,
    Structure,
    Template,
    TemplateError,
)

__all__ = [
    "MAX_TEXT",
    "VARIABLES",
    "Condition",
    "NothingPrintedError",
    "Structure",
    "Template",
    "TemplateError",
    "duration",
]

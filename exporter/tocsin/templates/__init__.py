"""Text, JSON and conditions made from a notification, in Jinja2."""

from tocsin.templates.environment import MAX_TEXT, FixedNames
from tocsin.templates.errors import TemplateCode, TemplateError
from tocsin.templates.filters import duration
from tocsin.templates.template import VARIABLES, Condition, Structure, Template

__all__ = [
    "MAX_TEXT",
    "VARIABLES",
    "Condition",
    "FixedNames",
    "Structure",
    "Template",
    "TemplateCode",
    "TemplateError",
    "duration",
]

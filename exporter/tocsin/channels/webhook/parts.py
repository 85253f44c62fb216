"""The templates that a request is made of."""

from collections.abc import Mapping
from typing import TypeAlias

from tocsin.templates import VARIABLES as ENVELOPE_VARIABLES
from tocsin.templates import Template, TemplateCode, TemplateError

VARIABLES = ENVELOPE_VARIABLES | {"secrets"}
"""What the templates of a request may name."""

Variables: TypeAlias = Mapping[str, object]

Part: TypeAlias = str | Template
"""A part of the request: its text where that is the same for all notifications, else a template."""


def part(source: str, place: str, secrets: Mapping[str, str]) -> Part:
    """Compile a part. One with nothing but secrets in it is rendered at once."""
    template = Template(source, place=place, known=VARIABLES)
    if template.constant:
        return source
    try:
        return Template(source, place=place, known={"secrets"}).render({"secrets": secrets})
    except TemplateError:
        return template


def rendered(what: Part, variables: Variables) -> str:
    """The text of a part. Raises TemplateError."""
    return what if isinstance(what, str) else what.render(variables)


def unfit(place: str, detail: str) -> TemplateError:
    """The error of a rendered text that cannot be sent."""
    return TemplateError(TemplateCode.UNFIT, place=place, detail=detail)


def encodable(text: str, place: str) -> str:
    """The text. Raises TemplateError if it has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise unfit(place, "half of a surrogate pair cannot be sent as text") from None
    return text

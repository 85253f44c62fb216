"""What can be wrong with a template, as codes and fields. The texts are made here."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from tocsin.errors import TocsinError


class TemplateCode(StrEnum):
    """What is wrong with a template."""

    SYNTAX = "syntax"
    NOT_ONE_EXPRESSION = "not_one_expression"
    UNKNOWN_VARIABLE = "unknown_variable"
    UNSET_VARIABLE = "unset_variable"
    UNKNOWN_NAME = "unknown_name"
    UNKNOWN_KEY = "unknown_key"
    UNKNOWN_ATTRIBUTE = "unknown_attribute"
    NULL = "null"
    TOO_DEEP = "too_deep"
    TOO_LONG = "too_long"
    EMPTY = "empty"
    FAILED = "failed"
    UNFIT = "unfit"
    NOT_JSON = "not_json"


_TEXTS = {
    TemplateCode.NOT_ONE_EXPRESSION: "write one expression, such as row.severity == 'page'",
    TemplateCode.UNKNOWN_VARIABLE: "there is no variable {name!r}; known are {available}",
    TemplateCode.UNSET_VARIABLE: "there is no {name!r}",
    TemplateCode.UNKNOWN_NAME: "there is no {name!r} among {available}",
    TemplateCode.UNKNOWN_KEY: "there is no {name!r} among {available}",
    TemplateCode.UNKNOWN_ATTRIBUTE: "there is no {name!r}",
    TemplateCode.NULL: "{name!r} of something that is NULL",
    TemplateCode.TOO_DEEP: "nested too deep",
    TemplateCode.TOO_LONG: "the text is longer than {detail} characters",
    TemplateCode.EMPTY: "an expression prints nothing",
}
"""Code -> text. The other codes bring their text with them, as `detail`."""


class TemplateError(TocsinError, ValueError):
    """A template does not compile, does not render, or renders to what its user cannot send.

    `place`: the template's place, such as `body.text[0]`. `line`: the line in it, 0 where that is not known.
    `name`: what was looked up in vain; `available`: the names that exist instead. `hint`: what to do.
    """

    def __init__(
        self,
        code: TemplateCode,
        *,
        place: str = "",
        line: int = 0,
        name: str = "",
        available: Sequence[str] = (),
        detail: str = "",
        hint: str = "",
    ) -> None:
        self.code = code
        self.place = place
        self.line = line
        self.name = name
        self.available = tuple(available)
        self.detail = detail
        self.hint = hint
        text = _TEXTS.get(code, "{detail}")
        self.text = text.format(name=name, available=", ".join(available) or "nothing", detail=detail)
        if hint:
            self.text = f"{self.text.rstrip('.')}; {hint}"
        message = f"line {line}: {self.text}" if line else self.text
        super().__init__(f"{place.removeprefix('.')}: {message}" if place else message)

    def at(self, place: str) -> "TemplateError":
        """The same error at a place."""
        return self._changed(place=place)

    def with_hint(self, hint: str) -> "TemplateError":
        """The same error with what to do."""
        return self._changed(hint=hint)

    def masked(self, mask: Callable[[str], str]) -> "TemplateError":
        """The same error without what `mask` replaces."""
        return self._changed(name=mask(self.name), available=[*map(mask, self.available)], detail=mask(self.detail))

    def _changed(self, **changes: Any) -> "TemplateError":
        fields = {name: getattr(self, name) for name in ("place", "line", "name", "available", "detail", "hint")}
        return TemplateError(self.code, **{**fields, **changes})

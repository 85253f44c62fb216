"""Matchers of labels in Alertmanager's syntax: `alertname="late_orders", customer=~"A.*"`.

As its parser of UTF-8 matchers (`matcher/parse`, since 0.27): names and values may be quoted, braces are optional.
Expressions are those of RE2, whose time grows with the text alone: none can hold up the event loop.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from tocsin.errors import TocsinError

_LONGEST = 4_000
"""Characters of all matchers together."""
_MEMORY = 1 << 20
"""Bytes that one expression may take. Comparing a label of 2,000 characters with the worst one takes 30 ms."""
_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
"""What RE2 has and Go lacks: any byte."""
_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}
"""What Go takes for space."""
_RESERVED = _SPACE | frozenset("{}!=~,\\\"'`")
_PLAIN_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, '"': 34}


class MatchersError(TocsinError):
    """A text that is no valid list of matchers. The message names the place and what is expected there."""


class Operator(StrEnum):
    """How a label is compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    MATCHES = "=~"
    NOT_MATCHES = "!~"

    @property
    def is_negative(self) -> bool:
        """Whether it matches what does not have the value."""
        return self in (Operator.NOT_EQUAL, Operator.NOT_MATCHES)


@dataclass(frozen=True, slots=True)
class Matcher:
    """One comparison. A label that is not there is the empty text."""

    name: str
    operator: Operator
    value: str
    expression: Any = field(default=None, compare=False, repr=False)
    """The compiled `value`, if it is an expression."""

    def matches(self, text: str) -> bool:
        """Whether a label with this text matches."""
        match self.operator:
            case Operator.EQUAL:
                return text == self.value
            case Operator.NOT_EQUAL:
                return text != self.value
        found = self.expression.search(text.encode("utf-8", "replace")) is not None
        return found is (self.operator is Operator.MATCHES)

    def __str__(self) -> str:
        name = _quoted(self.name) if not self.name or _RESERVED.intersection(self.name) else self.name
        return f"{name}{self.operator}{_quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class Matchers:
    """Matchers that have to match all."""

    each: tuple[Matcher, ...]

    def match(self, labels: Mapping[str, str]) -> bool:
        """Whether all match these labels."""
        return all(one.matches(labels.get(one.name, "")) for one in self.each)

    def __str__(self) -> str:
        return ", ".join(map(str, self.each))


@lru_cache(1_000)
def parse(text: str) -> Matchers:
    """Parse matchers of a silence. Raises MatchersError, also if they would match whatever has none of the labels: such
    a silence holds back everything."""
    if len(text) > _LONGEST:
        raise MatchersError(f"the matchers have {len(text):,} characters; at most {_LONGEST:,} are allowed")
    found = read(text)
    if not found:
        raise MatchersError('there is no matcher; write one like alertname="late_orders"')
    if all(one.matches("") for one in found):
        raise MatchersError(
            "these matchers also match notifications without the labels, so nearly all of them; add one like"
            ' alertname="late_orders", or alertname=~".+" for all alerts'
        )
    return Matchers(tuple(found))


def read(text: str) -> Sequence[Matcher]:
    """Read matchers exactly as Alertmanager does, none included. Raises MatchersError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(text, error.start, "there is no such character") from None
    return _Parser(text).parse()


# Tokens.


class _Token(NamedTuple):
    kind: str
    """One of `{`, `}`, `,`, an operator, `text`, or empty at the end."""
    text: str
    """As it is meant, without quotes."""
    column: int


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        begin, char = at, text[at]
        if char in _SPACE:
            at += 1
        elif char in "{},":
            at += 1
            yield _Token(char, char, begin)
        elif char in "=!":
            operator = text[at : at + 2] if text[at + 1 : at + 2] in ("=", "~") else char
            operator = "=" if operator == "==" else operator
            if operator == "!":
                raise _wrong(text, begin, "expected != or !~")
            at += len(operator)
            yield _Token(operator, operator, begin)
        elif char == '"':
            at = _closing_quote(text, begin) + 1
            yield _Token("text", _unquoted(text, begin, at), begin)
        elif char not in _RESERVED:
            while at < len(text) and text[at] not in _RESERVED:
                at += 1
            yield _Token("text", text[begin:at], begin)
        else:
            hint = '; quote texts with "' if char in "'`" else "; quote what has special characters"
            raise _wrong(text, begin, f"{char} is not valid here{hint}")
    yield _Token("", "", len(text))


def _closing_quote(text: str, begin: int) -> int:
    at = begin + 1
    while at < len(text):
        if text[at] == '"':
            return at
        at += 2 if text[at] == "\\" else 1
    raise _wrong(text, begin, 'the closing " is missing')


def _unquoted(text: str, begin: int, end: int) -> str:
    """A quoted text as Go reads it. Some of its escapes are bytes of UTF-8."""
    found, at = bytearray(), begin + 1
    while at < end - 1:
        char = text[at]
        if char == "\n":
            raise _wrong(text, at, r"a line break inside quotes is written \n")
        if char != "\\":
            found += char.encode("utf-8", "surrogatepass")
            at += 1
            continue
        size, value = _escape(text, at, end - 1)
        found += value
        at += size
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise _wrong(text, begin, "the quoted text is not valid UTF-8") from None


_DIGITS = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}


def _escape(text: str, at: int, end: int) -> tuple[int, bytes]:
    """The length of an escape sequence, and the bytes that it means."""
    kind = text[at + 1]
    if kind in _PLAIN_ESCAPES:
        return 2, bytes([_PLAIN_ESCAPES[kind]])
    skip, (count, base) = (2, _DIGITS[kind]) if kind in _DIGITS else (1, (3, 8))
    digits = text[at + skip : min(at + skip + count, end)]
    valid = "0123456789abcdefABCDEF" if base == 16 else "01234567"
    if len(digits) < count or not set(digits) <= set(valid):
        raise _wrong(text, at, rf"unknown escape \{kind}; in quotes, write \\ for a backslash")
    value = int(digits, base)
    if kind in "uU":
        if value > 0x10FFFF or 0xD800 <= value < 0xE000:
            raise _wrong(text, at, "there is no such character")
        return skip + count, chr(value).encode()
    if value > 255:
        raise _wrong(text, at, "an octal escape is at most \\377")
    return skip + count, bytes([value])


def _wrong(text: str, at: int, why: str) -> MatchersError:
    near = text[at : at + 20] + ("..." if len(text) > at + 20 else "")
    place = f"at character {at + 1}, {near!r}" if near else "at the end"
    return MatchersError(f"the matchers are not valid {place}: {why}")


# Grammar.


class _Parser:
    """[{] [matcher {, matcher} [,]] [}]"""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = next(self._tokens)

    def parse(self) -> Sequence[Matcher]:
        braces = self._accept("{")
        found: list[Matcher] = []
        while self._next.kind == "text" or (not found and self._next.kind not in ("", "}")):
            found.append(self._matcher())
            if not self._accept(","):
                break
        if braces and not self._accept("}"):
            raise self._expected("a comma or }" if found else "a label's name or }")
        if self._next.kind:
            if self._next.kind == "}" and not braces:
                raise _wrong(self._text, self._next.column, "there is no opening {")
            raise self._expected("a comma" if found and not braces else "the end")
        return found

    def _matcher(self) -> Matcher:
        name = self._take(("text",), "a label's name")
        operator = self._take(tuple(Operator), "one of =, !=, =~, !~")
        value = self._take(("text",), 'a value; an empty one is ""')
        kind = Operator(operator.kind)
        if kind in (Operator.EQUAL, Operator.NOT_EQUAL):
            return Matcher(name.text, kind, value.text)
        return Matcher(name.text, kind, value.text, self._compiled(value))

    def _compiled(self, value: _Token) -> Any:
        import re2  # only where an expression is used

        options = re2.Options()
        options.log_errors = False
        options.max_mem = _MEMORY
        if _BYTE.search(value.text):
            raise _wrong(self._text, value.column, r"\C is not supported")
        try:
            return re2.compile(f"^(?:{value.text})$".encode(), options)
        except (re2.error, UnicodeEncodeError) as error:
            why = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
            raise _wrong(self._text, value.column, f"not a valid expression of RE2: {why}") from None

    def _accept(self, kind: str) -> bool:
        if self._next.kind != kind:
            return False
        self._next = next(self._tokens) if kind else self._next
        return True

    def _take(self, kinds: Sequence[str], what: str) -> _Token:
        found = self._next
        if found.kind not in kinds:
            raise self._expected(what)
        self._next = next(self._tokens)
        return found

    def _expected(self, what: str) -> MatchersError:
        return _wrong(self._text, self._next.column, f"expected {what}")


_NAMED = {value: name for name, value in _PLAIN_ESCAPES.items()}


def _quoted(text: str) -> str:
    """A text in quotes, which `parse` reads unchanged."""
    chars = (f"\\{_NAMED[ord(char)]}" if ord(char) in _NAMED else char for char in text)
    return f'"{"".join(chars)}"'

"""Tokens of SQL, and a reader that walks along them."""

import re
from dataclasses import dataclass

from support.materialize import errors
from support.materialize.sql.statements import Name

_TOKEN = re.compile(
    r"""\s+ | --[^\n]* | /\*.*?\*/
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<word>[A-Za-z_][A-Za-z0-9_$]*)
    | (?P<number>\d+)
    | (?P<parameter>\$\d+)
    | (?P<sign>::|[(),.*=;<>+\[\]-])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


class UnknownPathError(Exception):
    """The tokens leave the known path."""


@dataclass(slots=True)
class Reader:
    """Reads tokens from left to right. Every method raises `UnknownPathError` where the tokens do not fit."""

    tokens: list[Token]
    at: int = 0

    def peek(self, *words: str) -> bool:
        """Do these words and signs come next?"""
        following = self.tokens[self.at : self.at + len(words)]
        return len(following) == len(words) and all(
            token.kind in ("word", "sign") and token.text.lower() == word
            for token, word in zip(following, words, strict=True)
        )

    def take(self, *words: str) -> bool:
        if self.peek(*words):
            self.at += len(words)
            return True
        return False

    def need(self, *words: str) -> None:
        if not self.take(*words):
            raise UnknownPathError

    def of_kind(self, *kinds: str) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at].kind in kinds:
            self.at += 1
            return self.tokens[self.at - 1].text
        raise UnknownPathError

    def identifier(self) -> str:
        text = self.of_kind("word", "quoted")
        return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()

    def name(self) -> Name:
        parts = [self.identifier()]
        while self.take("."):
            parts.append(self.identifier())
        return tuple(parts)

    def string(self) -> str:
        return self.of_kind("string")[1:-1].replace("''", "'")

    def number(self) -> int:
        text = self.of_kind("number", "string")
        digits = text.strip("'")
        if not digits.isdecimal():
            raise UnknownPathError
        return int(digits)

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise UnknownPathError


def tokens(sql: str) -> list[Token]:
    """Cut SQL into tokens, without blanks and comments.

    Raises:
        ServerError: 42601, something in it is no token.
    """
    found, at = [], 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None:
            raise errors.unsupported(sql)
        if match.lastgroup:
            found.append(Token(match.lastgroup, match[0], match.start(), match.end()))
        at = match.end()
    return found

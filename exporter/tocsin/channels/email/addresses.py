"""Mail addresses, parsed strictly: they end up in headers and in commands to a mail server."""

import email.header
import email.utils
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tocsin.channels.settings import Column
from tocsin.envelope import Envelope
from tocsin.settings import Settings
from tocsin.templates import Template

MAX_NAME = 64
"""Characters of a name that are kept."""

_MAX_ADDRESS = 254  # RFC 5321, 4.5.3.1.3, less the angle brackets
_ATOM = r"[^\s@<>(),;:\\\"\[\]]+"
_MAILBOX = re.compile(rf"(?:(?P<name>[^<>]*?)\s*<(?P<inner>{_ATOM}@{_ATOM})>|(?P<bare>{_ATOM}@{_ATOM}))")
_ENTRY = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,;"])+')
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")


class FromColumn(Settings):
    """The addresses in a column of the row."""

    column: Column
    """A text column with addresses between commas or semicolons, or an array, list or jsonb array of addresses."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address, `spec`, and the name of its owner."""

    spec: str
    name: str = ""

    @property
    def domain(self) -> str:
        return self.spec.rpartition("@")[2]

    def __str__(self) -> str:
        """Return the text for a header: ASCII, except for an address that is not."""
        if not self.name:
            return self.spec
        if not self.name.isascii():
            return f"{email.header.Header(self.name, 'utf-8', maxlinelen=900).encode()} <{self.spec}>"
        return f'"{email.utils.quote(self.name)}" <{self.spec}>'


def mailbox(text: str) -> Mailbox:
    """Parse one address: `ann@example.com` or `Ann Lee <ann@example.com>`. The domain becomes ASCII (`xn--...`). Raises
    ValueError for anything else, such as a second address or a line break."""
    match = _MAILBOX.fullmatch(text.strip())
    if match is None or not text.strip().isprintable():
        raise ValueError(f"{_short(text)} is not a valid mail address")
    spec = match["inner"] or match["bare"]
    local, _, written = spec.rpartition("@")
    domain = _ascii(written)
    spec = f"{local}@{domain}"
    if len(spec) > _MAX_ADDRESS or ".." in spec or local[0] == "." or local[-1] == "." or not _is_domain(domain):
        raise ValueError(f"{_short(text)} is not a valid mail address")
    name = (match["name"] or "").strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return Mailbox(spec, name[:MAX_NAME])


def mailboxes(text: str) -> Iterator[str]:
    """Yield the entries of a list with commas or semicolons; a quoted name may hold these too."""
    return (entry.strip() for entry in _ENTRY.findall(text) if entry.strip())


class Recipients:
    """The recipients of a field: addresses, templates for one address, columns with several."""

    def __init__(self, entries: list[str | FromColumn], place: str) -> None:
        """Raises TemplateError for a template, ValueError for an invalid address."""
        self._place = place
        self._entries: list[Template | FromColumn | Mailbox] = []
        for number, entry in enumerate(entries):
            if isinstance(entry, FromColumn):
                self._entries.append(entry)
                continue
            template = Template(entry, place=f"{place}[{number}]")
            self._entries += map(mailbox, mailboxes(entry)) if template.constant else [template]

    def of(self, envelope: Envelope) -> Iterator[Mailbox | str]:
        """Yield each recipient, or what is wrong with its text. Raises TemplateError, and LookupError for a column that
        the row lacks."""
        for entry in self._entries:
            if isinstance(entry, Mailbox):
                yield entry
                continue
            for text in self._texts(entry, envelope):
                try:
                    yield mailbox(text)
                except ValueError as error:
                    yield f"{self._place}: {error}"

    def _texts(self, entry: Template | FromColumn, envelope: Envelope) -> Iterator[str]:
        if isinstance(entry, Template):
            # One address in any case: a comma in a row must not add a recipient.
            if text := entry.render(envelope | {"merged": [envelope]}).strip():
                yield text
            return
        if entry.column not in envelope["row"]:
            raise LookupError(f"{self._place}: the row has no column {entry.column!r}")
        value = envelope["row"][entry.column]
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                yield from mailboxes(item if isinstance(item, str) else str(item))


def _is_domain(domain: str) -> bool:
    return all(_LABEL.fullmatch(label) for label in domain.split("."))


def _ascii(domain: str) -> str:
    """A domain as the DNS has it; empty where there is no such form."""
    if domain.isascii():
        return domain
    import idna

    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        return ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")

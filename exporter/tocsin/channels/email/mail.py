"""A message as a mail, or why it cannot be one. Pure.

The standard library's `EmailMessage` is not used: it folds a long message id into an invalid one, and takes four times
as long. Each header is ASCII without line breaks, whatever a row holds.
"""

import base64
import binascii
import email.header
import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from tocsin.channels import defaults
from tocsin.channels.base import Message, Rejected
from tocsin.channels.email.addresses import Mailbox, Recipients, mailbox
from tocsin.channels.email.settings import Options
from tocsin.errors import Reason
from tocsin.redaction import one_line
from tocsin.templates import Template, TemplateError

MAX_SUBJECT = 200
"""Characters of a subject; a longer one is cut."""

_SHOWN = {"To": "to", "Cc": "cc", "Reply-To": "reply_to"}
_LINE_BREAK = re.compile("\r\n|\r|\n")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail. `head` and `body`: bytes to send; `head` without the headers that name people, which depend on the
    server. `refused`: texts in place of an address that are not valid addresses."""

    sender: Mailbox
    people: Mapping[str, tuple[Mailbox, ...]]
    """By `to`, `cc`, `bcc` and `reply_to`."""
    refused: tuple[str, ...]
    head: bytes
    body: bytes

    @property
    def recipients(self) -> tuple[Mailbox, ...]:
        """Everyone who gets it, each once."""
        return (*self.people["to"], *self.people["cc"], *self.people["bcc"])

    def content(self, *, utf8: bool) -> bytes:
        """Return the bytes. `utf8`: the server accepts addresses that are not ASCII; otherwise the headers omit
        them."""
        people = {"From": (self.sender,)} | {name: self.people[field] for name, field in _SHOWN.items()}
        lines = [
            f"{name}: " + ",\r\n ".join(map(str, named)) + "\r\n"
            for name, addressees in people.items()
            if (named := [one for one in addressees if utf8 or one.spec.isascii()])
        ]
        if not any(line.startswith(("To:", "Cc:")) for line in lines):
            lines.append("To: undisclosed-recipients:;\r\n")
        return "".join(lines).encode() + self.head + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a mail says, to whom. `refused`: as in `Mail`."""

    people: Mapping[str, tuple[Mailbox, ...]]
    refused: tuple[str, ...]
    subject: str
    text: str
    html: str | None


class Route:
    """Makes mails of the notifications of one alert."""

    def __init__(self, alert: str, options: Options) -> None:
        self.sender = mailbox(options.from_)
        fields = {"to": options.to, "cc": options.cc, "bcc": options.bcc, "reply_to": options.reply_to}
        self._people = {name: Recipients(entries, f"{alert}: {name}") for name, entries in fields.items()}
        self._subject = _own(options.subject, f"{alert}: subject") or defaults.default("subject")
        self._text = _own(options.text, f"{alert}: text") or defaults.default("text")
        self._html = _own(options.html or None, f"{alert}: html", form="html")
        if options.html is None and options.text is None:
            self._html = defaults.default("html")

    def mail(self, message: Message, written_at: float) -> Mail | Rejected:
        """The mail for a message. `written_at`: its date, seconds since the epoch."""
        draft = self.draft(message)
        if isinstance(draft, Rejected):
            return draft
        return Mail(
            sender=self.sender,
            people=draft.people,
            refused=draft.refused,
            head=self._head(message, draft.subject, written_at),
            body=_body(draft.text, draft.html, message.id),
        )

    def draft(self, message: Message) -> Draft | Rejected:
        """Render a message, or return why it cannot be sent."""
        try:
            people, refused = self._recipients(message)
            variables = defaults.variables(message.envelope)
            subject = self._subject.render(variables)
            text = self._text.render(variables)
            html = None if self._html is None else self._html.render(variables)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, str(error))
        except LookupError as error:
            return Rejected(Reason.NO_RECIPIENTS, error.args[0])
        if not (people["to"] or people["cc"] or people["bcc"]):
            return Rejected(Reason.NO_RECIPIENTS, "; ".join(refused) or "the row has no address for to, cc or bcc")
        return Draft(people=people, refused=refused, subject=subject, text=text, html=html)

    def _recipients(self, message: Message) -> tuple[Mapping[str, tuple[Mailbox, ...]], tuple[str, ...]]:
        """Return the recipients by field, each once, and the texts that are not valid addresses. A digest goes to the
        recipients of all its notifications."""
        refused: dict[str, None] = {}
        seen: set[str] = set()
        people: dict[str, tuple[Mailbox, ...]] = {}
        for field, recipients in self._people.items():
            found: dict[str, Mailbox] = {}
            for envelope in message.envelope.get("merged", [message.envelope]):
                for one in recipients.of(envelope):
                    if isinstance(one, Mailbox):
                        found.setdefault(one.spec.lower(), one)
                    else:
                        refused[one] = None
            if field != "reply_to":
                found = {key: one for key, one in found.items() if key not in seen}
                seen |= found.keys()
            people[field] = tuple(found.values())
        return people, tuple(refused)

    def _head(self, message: Message, subject: str, written_at: float) -> bytes:
        domain = self.sender.domain
        headers = {
            "Subject": _header("Subject", subject),
            "Date": email.utils.format_datetime(datetime.fromtimestamp(written_at, UTC)),
            "Message-ID": f"<{message.id}@{domain}>",
            "Auto-Submitted": "auto-generated",
        }
        if message.previous_ids and _one_episode(message):
            # All mails of an episode answer the first one, so that clients group them even if one was lost.
            headers["In-Reply-To"] = headers["References"] = f"<{message.previous_ids[0]}@{domain}>"
        return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")


def _own(source: str | None, place: str, *, form: Literal["text", "html"] = "text") -> Template | None:
    return None if source is None else Template(source, place=place, form=form)


def _one_episode(message: Message) -> bool:
    merged = message.envelope.get("merged", ())
    return len({(one["fingerprint"], one["started_at"]) for one in merged}) <= 1


def _header(name: str, text: str) -> str:
    """Return a text as a header: one line, folded and encoded by RFC 2047."""
    line = one_line(text, MAX_SUBJECT)
    charset = "us-ascii" if line.isascii() and "=?" not in line else "utf-8"
    return email.header.Header(line, charset, header_name=name).encode(linesep="\r\n")


def _body(text: str, html: str | None, id_: str) -> bytes:
    """Return content headers, an empty line, and the content."""
    plain = _part("plain", text)
    if html is None:
        return b"MIME-Version: 1.0\r\n" + plain
    # Encoded text never has `=_`. Derived from the id, so that a repeat has the same bytes.
    boundary = f"=_{id_}".encode()
    return b"".join(
        (
            b'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="' + boundary + b'"\r\n\r\n',
            *(b"--" + boundary + b"\r\n" + part for part in (plain, _part("html", html))),
            b"--" + boundary + b"--\r\n",
        )
    )


def _part(kind: str, text: str) -> bytes:
    lines = _LINE_BREAK.sub("\r\n", _readable(text)).encode()
    data = lines if lines.endswith(b"\r\n") else lines + b"\r\n"
    encoding, encoded = "quoted-printable", binascii.b2a_qp(data)
    if len(encoded) > 1.4 * len(data):
        encoding, encoded = "base64", base64.encodebytes(data).replace(b"\n", b"\r\n")
    head = f'Content-Type: text/{kind}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + encoded


def _readable(text: str) -> str:
    """Return the text without what a mail cannot hold: control characters, and halves of surrogate pairs."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace").decode()

"""How senders sign their HTTP requests: with an HMAC SHA-256 of the body, most after the time of the request."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from tocsin import signing

TOLERANCE = 300.0
"""Seconds by which the time of a signed request may differ from the clock: what Standard Webhooks, Stripe and Slack
say."""
_DIGITS = 12
"""Digits of a time in seconds at most."""

Headers: TypeAlias = Mapping[str, str]
"""Names in lower case."""
Name: TypeAlias = Literal["standard", "github", "dbt", "stripe", "slack"]


class NotSigned(Exception):  # noqa: N818 - an answer, not a fault
    """A request has no valid signature. The text says why, without the secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the headers of a request say about its signature."""

    shown: Sequence[str]
    """Signatures. One of them must be right."""
    before: bytes = b""
    """What is signed in front of the body."""
    at: int | None = None
    """When it was signed, in seconds. None: the scheme has no time."""
    id_: str = ""
    """The sender's id of the delivery; empty if the headers have none."""


def _standard(headers: Headers) -> Claim | None:
    """Version 1 of https://www.standardwebhooks.com."""
    id_, at = headers.get("webhook-id", ""), _time(headers.get("webhook-timestamp", ""))
    shown = [one for one in headers.get("webhook-signature", "").split() if one.startswith("v1,")]
    if not id_ or not id_.isascii() or at is None:
        return None
    return Claim(shown=shown, before=f"{id_}.{at}.".encode(), at=at, id_=id_)


def _github(headers: Headers) -> Claim:
    return Claim(shown=[headers["x-hub-signature-256"]], id_=headers.get("x-github-delivery", ""))


def _dbt(headers: Headers) -> Claim:
    return Claim(shown=[headers["authorization"]])


def _stripe(headers: Headers) -> Claim | None:
    pairs = [one.strip().partition("=") for one in headers["stripe-signature"].split(",")]
    at = _time(next((value for name, _, value in pairs if name == "t"), ""))
    if at is None:
        return None
    return Claim(shown=[value for name, _, value in pairs if name == "v1"], before=f"{at}.".encode(), at=at)


def _slack(headers: Headers) -> Claim | None:
    at = _time(headers.get("x-slack-request-timestamp", ""))
    if at is None:
        return None
    return Claim(shown=[headers["x-slack-signature"]], before=f"v0:{at}:".encode(), at=at)


def _time(text: str) -> int | None:
    # Other spellings of the same number are not the signed text.
    plain = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if plain and str(int(text)) == text else None


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _text_key(secret: str) -> bytes:
    if len(secret) < 16:
        raise ValueError("has fewer than 16 characters and can be guessed")
    return secret.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How one kind of sender signs."""

    header: str
    """The header with the signature."""
    read: Callable[[Headers], Claim | None]
    """Read the headers, of which `header` is there; None if they are malformed."""
    key: Callable[[str], bytes] = _text_key
    """Make the key of a secret. Raises ValueError, which does not quote the secret."""
    prefix: str = ""
    """The text in front of a signature."""
    write: Callable[[bytes], str] = bytes.hex
    id_field: str | None = None
    """The field of the body with the sender's id of the event."""

    def claim(self, headers: Headers, now: float) -> Claim:
        """What the headers say. `now`: wall-clock seconds. Raises NotSigned if the signature cannot be valid."""
        claim = self.read(headers) if self.header.lower() in headers else None
        if claim is None:
            raise NotSigned(f"the request is not signed: {self.header} is missing or malformed{_hint(headers, self)}")
        if claim.at is not None and abs(now - claim.at) > TOLERANCE:
            raise NotSigned("the request is too old or too new; set the clock of the sender or of this machine")
        if not claim.shown:
            raise NotSigned(f"{self.header} has no signature of a known version")
        return claim

    def verify(self, key: bytes, claim: Claim, body: bytes) -> str:
        """Return the signature of a body. Raises NotSigned if the claim does not have it."""
        right = self.prefix + self.write(hmac.digest(key, claim.before + body, hashlib.sha256))
        if not any(hmac.compare_digest(one.encode(errors="surrogateescape"), right.encode()) for one in claim.shown):
            raise NotSigned(f"the signature in {self.header} is wrong; set the sender's secret as signing_secret")
        return right

    def event_id(self, document: Mapping[str, Any]) -> str:
        """The sender's id of an event in the body; empty if it has none."""
        id_ = document.get(self.id_field) if self.id_field else None
        return id_ if isinstance(id_, str) else ""


SCHEMES: Mapping[Name, Scheme] = MappingProxyType(
    {
        "standard": Scheme(header="webhook-signature", read=_standard, key=signing.key, prefix="v1,", write=_base64),
        "github": Scheme(header="X-Hub-Signature-256", read=_github, prefix="sha256="),
        "dbt": Scheme(header="Authorization", read=_dbt, id_field="eventId"),
        "stripe": Scheme(header="Stripe-Signature", read=_stripe, id_field="id"),
        "slack": Scheme(header="X-Slack-Signature", read=_slack, prefix="v0=", id_field="event_id"),
    }
)


def _hint(headers: Headers, wanted: Scheme) -> str:
    for name, scheme in SCHEMES.items():
        if scheme is not wanted and scheme.header.lower() in headers and scheme.header != "Authorization":
            return f"; it has {scheme.header}: set `signature: {name}`"
    return ""

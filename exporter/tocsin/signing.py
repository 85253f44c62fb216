"""Signatures by the Standard Webhooks specification, version 1.0.0
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
LENGTHS = range(24, 65)
"""Bytes of a secret, by the specification."""


class Signer:
    """Signs with every secret, so that a receiver may check with the old or the new one.

    `secrets`: `whsec_` and the base64 of the key, each. Raises ValueError, which does not quote the secret.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("is empty")
        self._keys = [key(secret) for secret in secrets]

    def headers(self, id_: str, timestamp: int, body: bytes) -> Mapping[str, str]:
        """The headers that sign a body. `timestamp`: seconds since the epoch, of this attempt."""
        signed = f"{id_}.{timestamp}.".encode() + body
        signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in self._keys]
        return {
            "webhook-id": id_,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }


HEADERS = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})


def key(secret: str) -> bytes:
    """The key of a secret. Raises ValueError, which does not quote the secret."""
    text = secret.removeprefix(PREFIX)
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if text == secret or len(found) not in LENGTHS:
        raise ValueError(
            f"a signing secret is {PREFIX} followed by {LENGTHS.start} to {LENGTHS.stop - 1} bytes in base64; generate "
            f"one with: echo {PREFIX}$(openssl rand -base64 32)"
        )
    return found

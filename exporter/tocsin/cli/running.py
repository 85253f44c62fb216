"""Requests to the running process: its address, TLS and login."""

import getpass
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from argparse import Namespace
from base64 import b64encode
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tocsin.cli.configuration import configuration
from tocsin.config import Config
from tocsin.errors import TocsinError


class UnreachableError(TocsinError):
    """No process answers there."""


_PATIENCE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where the process is, and how to log in."""

    url: str
    context: ssl.SSLContext | None
    authorization: str = field(default="", repr=False)
    elsewhere: str = "--url names another place"
    """What to do where no process answers."""

    def get(self, path: str, timeout: float | None = None) -> Any:
        """Return the answer, open. `timeout`: seconds that the process may be silent. Raises TocsinError."""
        request = urllib.request.Request(self.url + path)  # noqa: S310 - `running` checked the scheme
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            return urllib.request.urlopen(request, timeout=timeout, context=self.context)  # noqa: S310 - as above
        except urllib.error.HTTPError as error:
            raise TocsinError(_reason(error)) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise UnreachableError(f"{self.url}: {_why(why, self.elsewhere)}") from None

    def certificate_ends(self) -> float | None:
        """Return until when the certificate of the process is valid, in wall-clock seconds; None without TLS, and where
        it cannot be known. Raises OSError."""
        if self.context is None:
            return None
        parts = urllib.parse.urlsplit(self.url)
        address = parts.hostname or "", parts.port or 443
        with (
            socket.create_connection(address, timeout=_PATIENCE) as plain,
            self.context.wrap_socket(plain, server_hostname=parts.hostname) as secure,
        ):
            certificate = secure.getpeercert() or {}
        ends = certificate.get("notAfter")
        return ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None


def running(chosen: Namespace) -> Running:
    """Return how to reach the process: by the options, and what they do not say by the configuration."""
    config = None if chosen.url else configuration(chosen)
    url = (chosen.url or _listening(config)).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise TocsinError(f"{url}: not an address; write for example http://127.0.0.1:8627")
    context = _context(chosen, config) if url.startswith("https://") else None
    found = Running(url=url, context=context, authorization=_authorization(chosen, config))
    if config is not None and config.ledger.server() is not None:
        return replace(found, elsewhere="`tocsin instances` lists the processes that run, and --url asks one of them")
    return found


def _listening(config: Config | None) -> str:
    assert config is not None
    web = config.web
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(web.host, web.host)  # noqa: S104
    scheme = "https" if config.web_file.tls_server_config.enabled else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{web.port}"


def _context(chosen: Namespace, config: Config | None) -> ssl.SSLContext:
    """Trust the CA of `--ca`; the configuration's own certificate, whatever its names; or the system's CAs."""
    try:
        if config is not None and chosen.ca is None:
            tls = config.web_file.tls_server_config
            text = tls.cert or (Path(str(config.web.config_file)).parent / tls.cert_file).read_text(encoding="ascii")
            context = ssl.create_default_context(cadata=text)
            context.check_hostname = False  # the certificate is known, and its names need not have this address
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        else:
            context = ssl.create_default_context(cafile=chosen.ca)
        if chosen.cert is not None:
            context.load_cert_chain(chosen.cert, chosen.key)
    except ssl.SSLError as error:
        raise TocsinError(f"a certificate or key cannot be used: {error.reason}; it must be PEM") from None
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(str(name) for name in (chosen.ca, chosen.cert, chosen.key) if name)
        why = getattr(error, "strerror", None) or error
        raise TocsinError(f"{getattr(error, 'filename', None) or names}: cannot read the certificate: {why}") from None
    return context


def _authorization(chosen: Namespace, config: Config | None) -> str:
    if chosen.user is not None:
        password = os.environ.get("TOCSIN_PASSWORD")
        if password is None:
            if not sys.stdin.isatty():
                raise TocsinError("--user needs a password; set TOCSIN_PASSWORD, or type it in a terminal")
            password = getpass.getpass(f"password of {chosen.user}: ")
        return f"Basic {b64encode(f'{chosen.user}:{password}'.encode()).decode()}"
    token = os.environ.get("TOCSIN_TOKEN", "")
    if chosen.token_file is not None:
        try:
            token = Path(chosen.token_file).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise TocsinError(f"{chosen.token_file}: cannot read the token: {why}") from None
    if not token and config is not None:
        # Who can read the configuration has its tokens.
        token = next((one.token.get_secret_value() for one in config.web.tokens.values() if one.token), "")
    return f"Bearer {token}" if token else ""


def _why(error: object, elsewhere: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}; --ca names the CA that signed it"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}; a server that asks for client certificates needs --cert"
    return f"{getattr(error, 'strerror', None) or error}; does `tocsin run` run there? {elsewhere}"


def _reason(error: urllib.error.HTTPError) -> str:
    hint = "; see --user and --token-file" if error.code in {401, 403} else ""
    try:
        return str(json.load(error)["error"]) + hint
    except (ValueError, KeyError, TypeError):
        return f"{error.url}: {error.code} {error.reason}{hint}"

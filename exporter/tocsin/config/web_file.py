"""The file that `web.config_file` names: the format of Prometheus's exporter-toolkit (`--web.config.file`).

Pure: text in, settings and problems out. `tocsin.config.tls` reads the certificates. What the toolkit accepts and
ignores in silence is a problem here, or a warning where it does no harm.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, field_validator

from tocsin.config.document import parse
from tocsin.config.problems import Places, dotted, noun
from tocsin.config.validation import validate
from tocsin.errors import Problem
from tocsin.settings import Secret, Settings, invalid

CIPHERS: Mapping[str, str] = {
    **{
        f"TLS_{name}": f"TLS_{name}"
        for name in ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")
    },
    **{
        f"TLS_ECDHE_{key}_WITH_{cipher}": f"ECDHE-{key}-{name}"
        for key in ("ECDSA", "RSA")
        for cipher, name in (
            ("AES_128_CBC_SHA", "AES128-SHA"),
            ("AES_256_CBC_SHA", "AES256-SHA"),
            ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
            ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
            ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        )
    },
}
"""Go's name of a cipher suite -> OpenSSL's. Those of TLS 1.3 cannot be chosen, in Go neither."""
CURVES: Mapping[str, str] = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
"""Header -> its values; none: any."""
_HASH = re.compile(r"\$2[abxy]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_SLOW_COST = 15
"""A hash of this cost takes seconds to check."""
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+")

Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
ClientAuth = Literal[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "RequireClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]


class TlsServer(Settings):
    """`tls_server_config`. Paths are relative to the file's folder."""

    cert: str = ""
    key: Secret = Secret("")
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: list[str] = Field(default_factory=list)
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: list[str] = Field(default_factory=list)
    prefer_server_cipher_suites: bool = True
    curve_preferences: list[str] = Field(default_factory=list)

    @field_validator("client_auth_type", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or "NoClientCert"

    @property
    def enabled(self) -> bool:
        """Whether the port has TLS."""
        return bool(self.cert or self.cert_file)

    @property
    def authority(self) -> bool:
        """Whether there is a CA for client certificates."""
        return bool(self.client_ca or self.client_ca_file)

    @property
    def verifies(self) -> bool:
        """Whether client certificates are verified."""
        if_given = self.client_auth_type == "VerifyClientCertIfGiven" and self.authority
        return if_given or self.client_auth_type == "RequireAndVerifyClientCert"

    @property
    def requires_certificate(self) -> bool:
        """Whether no one gets an answer without a client certificate."""
        return self.enabled and self.client_auth_type == "RequireAndVerifyClientCert"


class HttpServer(Settings):
    """`http_server_config`."""

    http2: bool = True
    headers: dict[str, str] = Field(default_factory=dict)


class RateLimit(Settings):
    """`rate_limit`: of all requests, `burst` at once and then one each `interval`."""

    burst: int = 0
    interval: float = 0.0
    """Seconds, written as a Go duration."""

    @field_validator("interval", mode="before")
    @classmethod
    def _go_duration(cls, value: object) -> float:
        if value in (0, "0", None):
            return 0.0
        if not isinstance(value, str) or not _GO_DURATION.fullmatch(value):
            raise invalid("go_duration", "write a duration with its unit, as in 1s or 100ms; a bare number would be ns")
        parts = re.findall(r"([0-9.]+)([a-zµ]+)", value)
        return float(sum(float(number) * _GO_UNITS[unit] for number, unit in parts))


class WebFileSettings(Settings):
    """The whole file."""

    tls_server_config: TlsServer = Field(default_factory=TlsServer)
    http_server_config: HttpServer = Field(default_factory=HttpServer)
    rate_limit: RateLimit = Field(default_factory=RateLimit)
    basic_auth_users: dict[str, Secret] = Field(default_factory=dict)
    """User -> bcrypt hash of the password."""

    @property
    def users(self) -> dict[str, str]:
        """User -> bcrypt hash of the password."""
        return {name: value.get_secret_value() for name, value in self.basic_auth_users.items()}

    def protections(self) -> set[str]:
        """Return what keeps others out, in words."""
        found = {
            "TLS": self.tls_server_config.enabled,
            "basic_auth_users": bool(self.basic_auth_users),
            "client certificates": self.tls_server_config.requires_certificate,
            "client_allowed_sans": bool(self.tls_server_config.client_allowed_sans),
        }
        return {name for name, there in found.items() if there}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebFile:
    """What a file holds. With `problems` it cannot be used."""

    file: str
    settings: WebFileSettings = field(default_factory=WebFileSettings)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    places: Places = field(default_factory=Places, repr=False, compare=False)

    def problem(self, path: str, message: str) -> Problem:
        """Make a problem of this file with its line."""
        return self.places.located(Problem(code="web_file", path=path, message=message))


def parse_web_file(text: str, file: str) -> WebFile:
    """Parse and check the text of a file. `file`: its name in problems."""
    # It is not the place of variables: a ${ is text.
    document = parse(text.replace("${", "$${"), file, {})
    data = document.data
    if data is not None and not isinstance(data, dict):
        document.report("wrong_type", wanted="a mapping", found=noun(data))
    if document.problems:
        return WebFile(file=file, problems=tuple(document.problems), places=document.places)
    given = {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else {}
    settings, problems = validate(WebFileSettings, given, "", document.places)
    found = WebFile(file=file, settings=settings or WebFileSettings(), places=document.places)
    problems += [found.problem(path, message) for path, message in (_wrong(settings) if settings else ())]
    warnings = [found.problem(path, message) for path, message in _ignored(found.settings)]
    if not given:
        warnings.append(found.problem("", "the file is empty: neither TLS nor users"))
    by_line = sorted(problems, key=lambda one: one.line or 0)
    return WebFile(
        file=file,
        settings=found.settings,
        problems=tuple(by_line),
        warnings=tuple(warnings),
        places=document.places,
    )


def _wrong(settings: WebFileSettings) -> Iterator[tuple[str, str]]:
    """Yield place and text of each mistake that is not one of a single value's type."""
    yield from _wrong_tls(settings.tls_server_config)
    yield from _wrong_client_auth(settings.tls_server_config)
    for name, value in settings.http_server_config.headers.items():
        path, allowed = dotted(("http_server_config", "headers", name)), _HEADERS.get(name)
        if allowed is None:
            yield path, f"cannot be set; there are, spelled so: {', '.join(_HEADERS)}"
        elif value and allowed and value not in allowed:
            yield path, f"must be {' or '.join(allowed)}"
        elif not value.isprintable():
            yield path, "must be one line"
    for name, secret in settings.basic_auth_users.items():
        path = dotted(("basic_auth_users", name))
        if not name or ":" in name or not name.isprintable():
            yield path, "a user name has at least one character, and no colon"
        if not _HASH.fullmatch(secret.get_secret_value()):
            yield path, "must be a bcrypt hash of the password, as of `htpasswd -nBC 10 NAME`, not the password itself"
    rate = settings.rate_limit
    if rate.interval and rate.burst < 1:
        yield "rate_limit.burst", "must be at least 1: without a burst, every request is refused"


def _wrong_tls(tls: TlsServer) -> Iterator[tuple[str, str]]:
    base = "tls_server_config"
    for inline, file in (("cert", "cert_file"), ("key", "key_file"), ("client_ca", "client_ca_file")):
        if _text(tls, inline) and _text(tls, file):
            yield f"{base}.{file}", f"set either {inline} or {file}, not both"
    for needed in ("cert", "key"):
        if tls.model_fields_set and not (_text(tls, needed) or _text(tls, f"{needed}_file")):
            yield f"{base}.{needed}_file", f"is required (or {needed}): without it, the port would have no TLS"
    for name in tls.cipher_suites:
        if name not in CIPHERS:
            yield f"{base}.cipher_suites", f"there is no cipher suite {name!r}; there are {', '.join(CIPHERS)}"
    for name in tls.curve_preferences:
        if name not in CURVES:
            yield f"{base}.curve_preferences", f"there is no curve {name!r}; there are {', '.join(CURVES)}"
    if VERSIONS.index(tls.max_version) < VERSIONS.index("TLS12"):
        yield f"{base}.max_version", "must be TLS12 or TLS13: OpenSSL refuses older versions"
    elif VERSIONS.index(tls.min_version) > VERSIONS.index(tls.max_version):
        yield f"{base}.min_version", f"must not be above max_version ({tls.max_version})"


def _wrong_client_auth(tls: TlsServer) -> Iterator[tuple[str, str]]:
    kind, path = tls.client_auth_type, "tls_server_config.client_auth_type"
    fix = "use RequireAndVerifyClientCert"
    if kind in {"RequireAnyClientCert", "RequireClientCert"}:
        yield path, f"{kind} accepts a certificate that anyone made, and is not supported; {fix} with client_ca_file"
    elif tls.authority and not tls.verifies:
        yield path, f"{kind} verifies nothing, but there is a client CA; {fix}"
    elif tls.verifies and not tls.authority:
        yield "tls_server_config.client_ca_file", f"is required (or client_ca) for {kind}"
    if tls.client_allowed_sans and not tls.verifies:
        yield "tls_server_config.client_allowed_sans", f"needs certificates that are verified; {fix}"


def _ignored(settings: WebFileSettings) -> Iterator[tuple[str, str]]:
    """Yield place and text of each setting that has no effect, or a bad one."""
    tls = settings.tls_server_config
    if "min_version" in tls.model_fields_set and VERSIONS.index(tls.min_version) < VERSIONS.index("TLS12"):
        yield "tls_server_config.min_version", "has the effect of TLS12: OpenSSL refuses older versions"
    if tls.client_auth_type in {"RequestClientCert", "VerifyClientCertIfGiven"} and not tls.verifies:
        yield "tls_server_config.client_auth_type", "has no effect: no certificate is verified, so it proves nothing"
    if len(tls.curve_preferences) > 1:
        only = tls.curve_preferences[0]
        yield "tls_server_config.curve_preferences", f"Python's TLS can be limited to one curve: only {only} is used"
    if tls.enabled and settings.http_server_config.http2 and "http2" in settings.http_server_config.model_fields_set:
        yield "http_server_config.http2", "has no effect: the port speaks HTTP/1.1"
    if settings.rate_limit.burst and not settings.rate_limit.interval:
        yield "rate_limit.burst", "has no effect without interval"
    if settings.basic_auth_users and not tls.enabled:
        yield "basic_auth_users", "passwords cross the network in clear text: there is no tls_server_config"
    for name, secret in settings.users.items():
        if (found := _HASH.fullmatch(secret)) and int(found[1]) >= _SLOW_COST:
            yield (
                dotted(("basic_auth_users", name)),
                f"a hash of cost {found[1]} takes seconds to check; 10 to 12 are usual",
            )


def _text(tls: TlsServer, name: str) -> str:
    value = getattr(tls, name)
    return value.get_secret_value() if isinstance(value, Secret) else str(value)

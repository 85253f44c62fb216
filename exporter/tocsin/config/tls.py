"""Reads the file that `web.config_file` names, with its certificates, and makes the TLS context of the port."""

import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tocsin.config.problems import problem
from tocsin.config.web_file import CIPHERS, CURVES, TlsServer, WebFile, WebFileSettings, parse_web_file
from tocsin.errors import ConfigError, Problem

_FILES = ("cert_file", "key_file", "client_ca_file")
_LARGEST = 1024 * 1024
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """The file in effect."""

    settings: WebFileSettings = field(default_factory=WebFileSettings)
    context: ssl.SSLContext | None = None
    """None: no TLS."""
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The content of the file and of those that it names; None where one cannot be read, with the reason in `why`."""

    path: str
    contents: Mapping[str, bytes | None] = field(repr=False)
    why: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Changes with any content."""
        found = sha256()
        for name, content in sorted(self.contents.items()):
            for part in (name.encode(), b"-" if content is None else b"+" + content):
                found.update(len(part).to_bytes(8, "big") + part)
        return found.hexdigest()


def web_file(path: str) -> WebFile:
    """Read and parse the file alone. Problems are in the result."""
    return _parsed(_read_files(path, {}))


def read_files(path: str) -> Files:
    """Read the file and those that it names."""
    first = _read_files(path, {})
    tls = _parsed(first).settings.tls_server_config
    folder = Path(path).parent
    return _read_files(path, {name: folder / getattr(tls, name) for name in _FILES if getattr(tls, name)}, first)


def protection(files: Files) -> Protection:
    """Make what the files describe. Raises ConfigError with everything that is wrong."""
    parsed = _parsed(files)
    tls = parsed.settings.tls_server_config
    problems = list(parsed.problems)
    for name in _FILES:
        if why := files.why.get(name):
            where = Path(files.path).parent / getattr(tls, name)
            problems.append(parsed.problem(f"tls_server_config.{name}", f"cannot read {where}: {why}"))
    context = None
    if not problems and tls.enabled:
        try:
            context = _context(tls, files.contents)
        except _RefusedError as refused:
            problems.append(parsed.problem(f"tls_server_config.{refused.field}", refused.why))
    if problems:
        raise ConfigError(problems)
    return Protection(settings=parsed.settings, context=context, warnings=parsed.warnings)


def _parsed(files: Files) -> WebFile:
    content, file = files.contents[""], files.path
    if content is None:
        found = problem("unreadable", why=files.why[""])
        return WebFile(file=file, problems=(Problem(code=found.code, message=found.message, file=file),))
    try:
        return parse_web_file(content.decode("utf-8-sig"), file)
    except UnicodeDecodeError:
        found = problem("unreadable", why="it is not UTF-8 text")
        return WebFile(file=file, problems=(Problem(code=found.code, message=found.message, file=file),))


def _read_files(path: str, named: Mapping[str, Path], first: Files | None = None) -> Files:
    contents: dict[str, bytes | None] = dict(first.contents) if first else {}
    why: dict[str, str] = dict(first.why) if first else {}
    for name, file in {**({} if first else {"": Path(path)}), **named}.items():
        try:
            contents[name] = _read(file)
        except (OSError, ValueError) as error:
            contents[name], why[name] = None, _why(error)
    return Files(path=path, contents=contents, why=why)


def _why(error: OSError | ValueError) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]


def _read(file: Path) -> bytes:
    """Read a file of moderate size. A pipe could be read only once, and would hold the thread."""
    if not file.is_file():
        raise OSError(0, "no such file" if not file.exists() else "it is not a regular file")
    with file.open("rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(0, f"it is larger than {_LARGEST // 1024} KiB")
    return content


class _RefusedError(Exception):
    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field
        self.why = why


def _context(tls: TlsServer, contents: Mapping[str, bytes | None]) -> ssl.SSLContext:
    def content(name: str, inline: str) -> tuple[str, bytes]:
        return (name, contents[name] or b"") if getattr(tls, name) else (inline, getattr(tls, inline).encode())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS.get(tls.min_version, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = _VERSIONS[tls.max_version]
    context.set_alpn_protocols(["http/1.1"])
    certificate = content("cert_file", "cert")
    key = content("key_file", "key") if tls.key_file else ("key", tls.key.get_secret_value().encode())
    _load(context, certificate, key)
    chosen = [CIPHERS[name] for name in tls.cipher_suites if not CIPHERS[name].startswith("TLS_")]
    if chosen:
        context.set_ciphers(":".join(chosen))
    if tls.curve_preferences:
        context.set_ecdh_curve(CURVES[tls.curve_preferences[0]])
    if tls.verifies:
        name, authority = content("client_ca_file", "client_ca")
        try:
            context.load_verify_locations(cadata=authority.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError):
            raise _RefusedError(name, "holds no certificate in PEM") from None
        required = tls.client_auth_type == "RequireAndVerifyClientCert"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _load(context: ssl.SSLContext, certificate: tuple[str, bytes], key: tuple[str, bytes]) -> None:
    """Load certificate and key. Python reads them from files only."""
    if b"ENCRYPTED" in key[1]:
        raise _RefusedError(key[0], "the key has a passphrase, which no one can type here; decrypt it: openssl pkey")
    with tempfile.TemporaryDirectory() as folder:  # of mode 0700
        paths = [Path(folder) / name for name in ("cert", "key")]
        for path, (_, content) in zip(paths, (certificate, key), strict=True):
            path.touch(mode=0o600)
            path.write_bytes(content)
        try:
            context.load_cert_chain(paths[0], paths[1])
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise _RefusedError(key[0], "the key does not belong to the certificate") from None
            which = certificate if b"-----BEGIN CERTIFICATE-----" not in certificate[1] else key
            what = "certificate" if which is certificate else "private key"
            raise _RefusedError(which[0], f"holds no {what} in PEM that can be used ({error.reason})") from None

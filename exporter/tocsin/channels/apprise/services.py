"""One URL of Apprise: its service, and sending to it.

Only single services of the library are used: no configuration files, attachments, custom plugins, files on disk,
retries, pauses or redirects.
"""

import difflib
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import apprise
from apprise.conversion import convert_between
from apprise.manager_plugins import NotificationManager

from tocsin.channels.apprise.quiet import captured
from tocsin.model import Kind
from tocsin.redaction import redactor

_LOCAL = frozenset(
    {"blink1", "dbus", "exec", "file", "gio", "glib", "gnome", "kde", "macosx", "qt", "script", "syslog", "windows"}
)
"""Services that act on this machine instead of notifying someone."""

_EXTRA_TIMEOUT = 0.5
"""Seconds that a service waits longer than an attempt, so that a missing answer is a timeout and not a failure."""

_TYPES: Mapping[str, apprise.NotifyType] = {
    Kind.FIRED: apprise.NotifyType.FAILURE,
    Kind.REPEATED: apprise.NotifyType.FAILURE,
    Kind.UPDATED: apprise.NotifyType.WARNING,
    Kind.RESOLVED: apprise.NotifyType.SUCCESS,
    Kind.EVENT: apprise.NotifyType.INFO,
}


def load() -> None:
    """Import all services, which takes a second."""
    with captured(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some use deprecated features of Python
        NotificationManager().load_modules()  # type: ignore[no-untyped-call]


class Service:
    """A service with its address. `name`: of the service, such as Slack."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout`: seconds of an attempt. Raises ValueError, without the URL, if Apprise does not understand it."""
        check_schema(url)
        asset = apprise.AppriseAsset(
            app_id="Tocsin",
            app_desc="Tocsin",
            app_url="",
            image_url_mask="",
            image_url_logo="",
            http_redirects=False,
            storage_mode=apprise.PersistentStoreMode.MEMORY,
            pgp_autogen=False,
            pem_autogen=False,
            interpret_escapes=False,
        )
        redact = redactor(secrets_of(url))
        with captured() as lines:
            try:
                plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
                lines.append(str(error))
                plugin = None
        if plugin is None:
            why = redact(lines[-1]) if lines else "no reason given"
            raise ValueError(f"Apprise cannot use this {_schema(url)} URL: {why}")
        if getattr(plugin, "secure_protocol", None) == "mailtos" and plugin.password and not plugin.secure:
            raise ValueError(
                "mailto:// would send the password in clear text, also where the server offers TLS; write mailtos://,"
                " or use a channel of the type email"
            )
        plugin.redirects = False  # `?redirect=yes` would count a sign-in page as success
        limited = plugin.body_maxlen != apprise.NotifyBase.body_maxlen
        if limited and "overflow" not in parse_qs(url.partition("?")[2]):
            # The library would send a text of any length, which a service with a limit always refuses.
            plugin.overflow_mode = apprise.OverflowMode.TRUNCATE
        plugin.request_rate_per_sec = 0  # the dispatcher's rate_limit is for this
        plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout + _EXTRA_TIMEOUT
        self.name = str(plugin.service_name)
        self._plugin = plugin
        # Some services have a token in the place of the host.
        self._redact = redactor(secrets_of(url, host="host" not in plugin.template_tokens))
        self._pieces = _Pieces(set())
        for name in ("send", *(f"send_{form.value}" for form in apprise.NotifyFormat)):
            if callable(send := getattr(plugin, name, None)):
                setattr(plugin, name, functools.partial(self._send_piece, send))

    def _send_piece(self, send: Callable[..., bool], **about: Any) -> bool:
        return self._pieces.send(functools.partial(send, **about), about.get("index", 0))

    def send(self, title: str, body: str, kind: Kind, form: str, accepted: set[int] | None = None) -> str | None:
        """Send a message in this thread, without a timeout. Returns why it failed, without secrets.

        `form`: the format of the body; the title is plain text. `accepted`: the pieces of a split message
        (`?overflow=split`) that earlier attempts delivered; those of this one are added.
        """
        self._pieces = _Pieces(set() if accepted is None else accepted)
        with captured() as lines:
            try:
                good = self._plugin.notify(notify_type=_TYPES[kind], **self._translated(title, body, form))
            except BaseException as error:  # noqa: BLE001 - a plugin can raise anything; it must not end the thread
                lines.append(f"{type(error).__name__}: {error}")
                good = False
        if good:
            return None
        return self._redact(f"{self.name}: {lines[-1] if lines else 'not delivered, and no reason given'}")

    def _translated(self, title: str, body: str, form: str) -> dict[str, Any]:
        """Return title and body in the format of the service. The library converts before it calls a plugin; not all
        plugins convert again."""
        written = apprise.NotifyFormat(form)
        taken = self._plugin.resolve_format(written)
        if self._plugin.title_maxlen <= 0:  # it becomes part of the body
            title = convert_between(apprise.NotifyFormat.TEXT, taken, title)  # type: ignore[no-untyped-call]
        body = convert_between(written, taken, body)  # type: ignore[no-untyped-call]
        return {"title": title, "body": body, "body_format": taken, "body_passthrough": False}


class _Pieces:
    """The pieces of one message, in order. The library sends all of them even if one fails, and all again in the next
    attempt, so people would read a, c, a, b, c."""

    def __init__(self, accepted: set[int]) -> None:
        self._accepted = accepted
        self._failed = False

    def send(self, send: Callable[[], bool], index: int) -> bool:
        """Send a piece, unless it was accepted before or an earlier one failed."""
        if index in self._accepted:
            return True
        if self._failed:
            return False
        self._failed = True  # also when it raises
        if send():
            self._failed = False
            self._accepted.add(index)
        return not self._failed


def check_schema(url: str) -> None:
    """Raise ValueError if the scheme is not a service, or one that acts on this machine."""
    schema = _schema(url)
    known: Any = NotificationManager()  # type: ignore[no-untyped-call]
    if schema in _LOCAL:
        raise ValueError(f"{schema}:// acts on this machine only; it cannot be a channel")
    if schema in known:
        if not known[schema].enabled:
            raise ValueError(f"{schema}:// needs a Python package that is not installed; see Apprise's page about it")
        return
    if schema in ("http", "https"):  # the address of a webhook as a service shows it
        return
    near = difflib.get_close_matches(schema, set(known.schemas()) - _LOCAL, n=1)
    hint = f"; did you mean {near[0]}://?" if near else ""
    raise ValueError(f"Apprise knows no service {schema}://{hint}")


def _schema(url: str) -> str:
    return url.partition("://")[0].lower()


def secrets_of(url: str, *, host: bool = True) -> list[str]:
    """Return the parts of an URL that may be secret, in each spelling: user, password, everything behind the host, and
    the `host`."""
    rest = url.partition("://")[2]
    authority, _, behind = rest.partition("/")
    user_info, _, server = authority.rpartition("@")
    path, _, query = behind.partition("?")
    found = [url, user_info, behind, *user_info.split(":"), *path.split("/")]
    found += [pair.partition("=")[2] for pair in query.split("&")]
    if host:
        found += [server, *server.split(":")]
    return [part for part in {*found, *map(unquote, found)} if part]

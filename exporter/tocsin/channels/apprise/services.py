"""One URL of Apprise: what service it stands for, and sending to it.

Of the library only its services are used, one at a time: no files of configuration, no attachments, no plugins of
one's own, nothing kept on disk, no retries, no pauses, no redirects.
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

from tocsin.channels.apprise.quiet import said
from tocsin.model import Kind
from tocsin.redaction import redactor

_LOCAL = frozenset(
    {"blink1", "dbus", "exec", "file", "gio", "glib", "gnome", "kde", "macosx", "qt", "script", "syslog", "windows"}
)
"""Services that do something on this machine instead of telling somebody."""

_LONGER = 0.5
"""Seconds that a service waits longer than an attempt, so that no answer is told as such and not as a failure."""

_TYPES: Mapping[str, apprise.NotifyType] = {
    Kind.FIRED: apprise.NotifyType.FAILURE,
    Kind.REPEATED: apprise.NotifyType.FAILURE,
    Kind.UPDATED: apprise.NotifyType.WARNING,
    Kind.RESOLVED: apprise.NotifyType.SUCCESS,
    Kind.EVENT: apprise.NotifyType.INFO,
}


def load() -> None:
    """Import all services, which takes a second."""
    with said(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some use what later Pythons will not have
        NotificationManager().load_modules()  # type: ignore[no-untyped-call]


class Service:
    """Somebody to tell. `name`: the service's, such as Slack."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout`: seconds that an attempt may take. Raises ValueError, with a text that does not hold the URL, if
        Apprise makes nothing of it."""
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
        with said() as lines:
            try:
                plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
                lines.append(str(error))
                plugin = None
        if plugin is None:
            why = redact(lines[-1]) if lines else "no reason is given"
            raise ValueError(f"Apprise cannot use this {_schema(url)} URL: {why}")
        if getattr(plugin, "secure_protocol", None) == "mailtos" and plugin.password and not plugin.secure:
            raise ValueError(
                "mailto:// would send the password in clear text, also where the server offers TLS; write mailtos://,"
                " or use a channel of the type email"
            )
        plugin.redirects = False  # `?redirect=yes` would count a sign-in page as success
        limited = plugin.body_maxlen != apprise.NotifyBase.body_maxlen
        if limited and "overflow" not in parse_qs(url.partition("?")[2]):
            # The library would send a text of any length, and a service with a limit refuse it each time.
            plugin.overflow_mode = apprise.OverflowMode.TRUNCATE
        plugin.request_rate_per_sec = 0  # the dispatcher's rate_limit is for this
        plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout + _LONGER
        self.name = str(plugin.service_name)
        self._plugin = plugin
        # Where the address of a server stands for some services, others have a token.
        self._redact = redactor(secrets_of(url, host="host" not in plugin.template_tokens))
        self._pieces = _Pieces(set())
        for name in ("send", *(f"send_{form.value}" for form in apprise.NotifyFormat)):
            if callable(send := getattr(plugin, name, None)):
                setattr(plugin, name, functools.partial(self._send_piece, send))

    def _send_piece(self, send: Callable[..., bool], **about: Any) -> bool:
        return self._pieces.send(functools.partial(send, **about), about.get("index", 0))

    def send(self, title: str, body: str, kind: Kind, form: str, accepted: set[int] | None = None) -> str | None:
        """Send a message in this thread, for as long as that takes. None if that went well, else why not, without
        secrets.

        `form`: what the body is written in. The title is plain text. `accepted`: the pieces of a message that is split
        (`?overflow=split`) which an attempt before has delivered; those of this one are added.
        """
        self._pieces = _Pieces(set() if accepted is None else accepted)
        with said() as lines:
            try:
                good = self._plugin.notify(notify_type=_TYPES[kind], **self._translated(title, body, form))
            except BaseException as error:  # noqa: BLE001 - a plugin can raise anything; it must not end the thread
                lines.append(f"{type(error).__name__}: {error}")
                good = False
        if good:
            return None
        return self._redact(f"{self.name}: {lines[-1] if lines else 'not delivered, and no reason is given'}")

    def _translated(self, title: str, body: str, form: str) -> dict[str, Any]:
        """Title and body as the service takes them. The library does this before it calls a plugin; not all of these do
        it again."""
        written = apprise.NotifyFormat(form)
        taken = self._plugin.resolve_format(written)
        if self._plugin.title_maxlen <= 0:  # it becomes a part of the body
            title = convert_between(apprise.NotifyFormat.TEXT, taken, title)  # type: ignore[no-untyped-call]
        body = convert_between(written, taken, body)  # type: ignore[no-untyped-call]
        return {"title": title, "body": body, "body_format": taken, "body_passthrough": False}


class _Pieces:
    """The pieces of one message, in order. The library sends all of them even where one fails, and all of them again
    in the next attempt, so that people would read a, c, a, b, c."""

    def __init__(self, accepted: set[int]) -> None:
        self._accepted = accepted
        self._failed = False

    def send(self, send: Callable[[], bool], index: int) -> bool:
        """Send a piece, unless it was accepted before or one before it has failed."""
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
    """Raise ValueError if no service is meant by what stands before `://`, or one of this machine."""
    schema = _schema(url)
    known: Any = NotificationManager()  # type: ignore[no-untyped-call]
    if schema in _LOCAL:
        raise ValueError(f"{schema}:// does something on this machine and tells nobody; it is not for a channel")
    if schema in known:
        if not known[schema].enabled:
            raise ValueError(f"{schema}:// needs a Python package that is not installed; see Apprise's page about it")
        return
    if schema in ("http", "https"):  # the address that a service itself shows for a webhook
        return
    near = difflib.get_close_matches(schema, set(known.schemas()) - _LOCAL, n=1)
    hint = f"; did you mean {near[0]}://?" if near else ""
    raise ValueError(f"Apprise knows no service {schema}://{hint}")


def _schema(url: str) -> str:
    return url.partition("://")[0].lower()


def secrets_of(url: str, *, host: bool = True) -> list[str]:
    """What in an URL may be a secret, in each spelling: user, password, everything behind the host, and the `host`."""
    rest = url.partition("://")[2]
    authority, _, behind = rest.partition("/")
    user_info, _, server = authority.rpartition("@")
    path, _, query = behind.partition("?")
    found = [url, user_info, behind, *user_info.split(":"), *path.split("/")]
    found += [pair.partition("=")[2] for pair in query.split("&")]
    if host:
        found += [server, *server.split(":")]
    return [part for part in {*found, *map(unquote, found)} if part]

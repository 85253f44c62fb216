"""One URL of Apprise: its service, and sending to it.

Only single services of the library are used: no configuration files, attachments, custom plugins, files on disk,
retries, pauses or redirects.
"""

import contextlib
import difflib
import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import apprise
from apprise.conversion import convert_between
from apprise.manager_plugins import NotificationManager

from tocsin.channels.base import Delivered, Result, Retry
from tocsin.errors import Reason
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

_OWN_LOGGERS = ("apprise", "slixmpp")
"""Loggers that only Apprise uses, also in its own threads."""

_SHARED_LOGGERS = ("gntp", "oauthlib", "paho", "pika", "requests", "requests_oauthlib", "smpplib", "urllib3")


class _Log(logging.Handler):
    """Keeps the lines of Apprise and its libraries out of our log, since they may hold tokens. The warnings of the
    thread that sends are the only place that says why a service failed."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()
        for name in (*_OWN_LOGGERS, *_SHARED_LOGGERS):
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False
        for name in _OWN_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)  # whatever `log.level` is

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(self._thread, "lines", None)
        if lines is not None:
            if record.levelno >= logging.WARNING:
                with contextlib.suppress(Exception):  # a line that cannot be formatted does not fail the send
                    lines.append(record.getMessage())
        elif record.name.partition(".")[0] not in _OWN_LOGGERS:
            # From another user of the same library: pass it on.
            logging.getLogger().callHandlers(record)

    @contextlib.contextmanager
    def captured(self) -> Iterator[list[str]]:
        """Collect the warnings of this thread."""
        lines: list[str] = []
        self._thread.lines = lines
        try:
            yield lines
        finally:
            self._thread.lines = None


_LOG = _Log()  # one for the process, as the loggers are


def load() -> None:
    """Import all services, which takes a second."""
    with _LOG.captured(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some use deprecated features of Python
        NotificationManager().load_modules()  # type: ignore[no-untyped-call]


class Service:
    """A service with its address. `name`: of the service, such as Slack."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout`: seconds of an attempt. Raises ValueError, without the URL, if Apprise does not understand it."""
        check_schema(url)
        self._plugin = plugin = _plugin(url)
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
        # Some services have a token in the place of the host.
        self._redact = redactor(secrets_of(url, host="host" not in plugin.template_tokens))
        self._failed = False
        for name in ("send", *(f"send_{form.value}" for form in apprise.NotifyFormat)):
            if callable(send := getattr(plugin, name, None)):
                setattr(plugin, name, functools.partial(self._send_piece, send))

    def send(self, title: str, body: str, kind: Kind, form: str) -> Result:
        """Send a message in this thread, without a timeout. A failure says why, without secrets.

        `form`: the format of the body; the title is plain text.
        """
        self._failed = False
        with _LOG.captured() as lines:
            try:
                good = self._plugin.notify(notify_type=_TYPES[kind], **self._translated(title, body, form))
            except BaseException as error:  # noqa: BLE001 - a plugin can raise anything; it must not end the thread
                lines.append(f"{type(error).__name__}: {error}")
                good = False
        if good:
            return Delivered()
        why = lines[-1] if lines else "not delivered, and no reason given"
        return Retry(Reason.SERVER_ERROR, self._redact(f"{self.name}: {why}"))

    def _send_piece(self, send: Callable[..., bool], **about: Any) -> bool:
        """Send a piece of a text that is split (`?overflow=split`), unless one before it failed: the library would send
        the rest, and people would read it out of order."""
        if self._failed:
            return False
        self._failed = True  # also when it raises
        self._failed = not send(**about)
        return not self._failed

    def _translated(self, title: str, body: str, form: str) -> dict[str, Any]:
        """Return title and body in the format of the service. The library converts before it calls a plugin; not all
        plugins convert again."""
        written = apprise.NotifyFormat(form)
        taken = self._plugin.resolve_format(written)
        if self._plugin.title_maxlen <= 0:  # it becomes part of the body
            title = convert_between(apprise.NotifyFormat.TEXT, taken, title)  # type: ignore[no-untyped-call]
        body = convert_between(written, taken, body)  # type: ignore[no-untyped-call]
        return {"title": title, "body": body, "body_format": taken, "body_passthrough": False}


def _plugin(url: str) -> Any:
    """Return the library's object for an URL. Raises ValueError, without the URL."""
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
    with _LOG.captured() as lines:
        try:
            plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
            lines.append(str(error))
            plugin = None
    if plugin is None:
        why = redactor(secrets_of(url))(lines[-1]) if lines else "no reason given"
        raise ValueError(f"Apprise cannot use this {_schema(url)} URL: {why}")
    return plugin


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

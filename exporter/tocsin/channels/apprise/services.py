"""One URL of Apprise: what service it stands for, and sending to it.

Of the library only its services are used, one at a time: no files of configuration, no attachments, no plugins of
one's own, nothing kept on disk, no retries, no pauses, no redirects.
"""

import contextlib
import difflib
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import apprise
from apprise.manager_plugins import NotificationManager

from tocsin.channels.base import redactor
from tocsin.model import Kind

_LOCAL = frozenset(
    {"blink1", "dbus", "exec", "file", "gio", "glib", "gnome", "kde", "macosx", "qt", "script", "syslog", "windows"}
)
"""Services that do something on this machine instead of telling somebody."""

_LOGGERS = ("apprise", "oauthlib", "requests", "requests_oauthlib", "urllib3")

_TYPES: Mapping[str, apprise.NotifyType] = {
    Kind.FIRED: apprise.NotifyType.FAILURE,
    Kind.REPEATED: apprise.NotifyType.FAILURE,
    Kind.UPDATED: apprise.NotifyType.WARNING,
    Kind.RESOLVED: apprise.NotifyType.SUCCESS,
    Kind.EVENT: apprise.NotifyType.INFO,
}


class Log(logging.Handler):
    """Keeps what the libraries say instead of printing it: it may hold tokens, and why a service failed is nowhere
    else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._local = threading.local()
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.setLevel(logging.WARNING)
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(self._local, "lines", None)
        if lines is not None:
            lines.append(record.getMessage())

    @contextlib.contextmanager
    def said(self) -> Iterator[list[str]]:
        """What is said in this thread meanwhile."""
        lines: list[str] = []
        self._local.lines = lines
        try:
            yield lines
        finally:
            self._local.lines = None

    def close(self) -> None:
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.removeHandler(self)
            if not logger.handlers:
                logger.addHandler(logging.NullHandler())  # a thread may be behind
        super().close()


def load() -> None:
    """Import all services, which takes a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some use what later Pythons will not have
        NotificationManager().load_modules()  # type: ignore[no-untyped-call]


class Service:
    """Somebody to tell. `name`: the service's, such as Slack."""

    def __init__(self, url: str, timeout: float, log: Log) -> None:
        """Raises ValueError, with a text that does not hold the URL, if Apprise makes nothing of it."""
        self._log = log
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
        with log.said() as lines:
            try:
                plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
            except Exception as error:  # noqa: BLE001 - a plugin can raise anything
                lines.append(str(error))
                plugin = None
        if plugin is None:
            why = redact(lines[-1]) if lines else "no reason is given"
            raise ValueError(f"Apprise cannot use this {_schema(url)} URL: {why}")
        plugin.request_rate_per_sec = 0  # the dispatcher's rate_limit is for this
        plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout
        self.name = str(plugin.service_name)
        self._plugin = plugin
        # Where the address of a server stands for some services, others have a token.
        self._redact = redactor(secrets_of(url, host="host" not in plugin.template_tokens))

    def send(self, title: str, body: str, kind: Kind, form: str) -> str | None:
        """Tell it, in this thread, for as long as that takes. None if that went well, else why not, without secrets."""
        with self._log.said() as lines:
            try:
                good = self._plugin.notify(
                    title=title, body=body, notify_type=_TYPES[kind], body_format=apprise.NotifyFormat(form)
                )
            except Exception as error:  # noqa: BLE001 - a plugin can raise anything
                lines.append(f"{type(error).__name__}: {error}")
                good = False
        if good:
            return None
        return self._redact(f"{self.name}: {lines[-1] if lines else 'not delivered, and no reason is given'}")


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

"""The listening port: TLS and logins as the file says that `web.config_file` names, read again when it changes."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
from aiohttp import web

from tocsin.config.sections import WebSettings
from tocsin.config.tls import Files, Protection, protection, read_files
from tocsin.errors import ConfigError, Problem
from tocsin.repeats import Repeats
from tocsin.web.access import Rules, rules
from tocsin.web.connections import Connections
from tocsin.web.guard import Guard

log = structlog.get_logger(__name__)

_EVERY = 1.0
_FAILED = Repeats(log, "web.config_file could not be checked", level="error")


class Port:
    """Listens once `open` was called. `guard` decides about requests, by the settings that were configured last."""

    def __init__(
        self,
        settings: WebSettings,
        connections: Connections,
        *,
        reloaded: Callable[[bool], None] = lambda _: None,
        every: float = _EVERY,
    ) -> None:
        """`reloaded`: is called with whether a changed file is in effect. `every`: seconds between two checks of files
        and connections. Raises ConfigError for a file that cannot be used."""
        self._reloaded = reloaded
        self._every = every
        self._settings = settings
        self._connections = connections
        self._files = read_files(settings.config_file) if settings.config_file else None
        self._protection = protection(self._files) if self._files else Protection()
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self.refused: tuple[Problem, ...] = ()
        """What is wrong with the file as it is now; the last good one is in effect."""
        self._loopback, self._config_file = settings.loopback, settings.config_file
        self.guard = Guard(self._rules())

    @property
    def warnings(self) -> Sequence[str]:
        """Return why the file is not in effect as it is now."""
        return [f"web.config_file is refused, and the last good one is in effect: {one}" for one in self.refused]

    async def open(self, runner: web.AppRunner) -> str:
        """Listen, and return the address. Raises OSError."""
        self._runner, server = runner, runner.server
        assert server is not None

        def connected() -> asyncio.Protocol:
            return self._connections.protocol(server, self._protection.context)

        host, port = self._settings.host or None, self._settings.port
        self._server = await asyncio.get_running_loop().create_server(connected, host, port)
        host, port = self._server.sockets[0].getsockname()[:2]
        scheme = "https" if self._protection.context else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def configure(self, settings: WebSettings) -> None:
        """Put the settings of a reloaded configuration into effect. `listen` and `config_file` stay as they were."""
        self._settings = settings
        self.guard.replace(self._rules())

    async def watch(self) -> None:
        """Enforce the limits of connections, and put a changed file into effect, until cancelled."""
        while True:
            await asyncio.sleep(self._every)
            self._connections.sweep()
            try:
                await self._check_files()
            except Exception:  # noqa: BLE001 - a defect here must not end the process
                _FAILED.add(exc_info=True)

    async def close(self) -> None:
        """Stop to listen. Connections stay until their requests are answered."""
        if self._server is not None:
            self._server.close()

    def _rules(self) -> Rules:
        # A reload may change `listen` and `config_file`, which take effect with the next start.
        alone = self._loopback and self._settings.config_file == self._config_file
        found = rules(self._settings, self._protection.settings, loopback=alone)
        # Other processes of a ledger link to it by the name of its machine, under which no one else has a page.
        return replace(found, hosts=found.hosts | {socket.gethostname().lower()})

    async def _check_files(self) -> None:
        if self._files is not None:
            files = await asyncio.to_thread(read_files, self._files.path)
            if files.digest != self._files.digest:
                self._files = files
                await self._changed(files)

    async def _changed(self, files: Files) -> None:
        try:
            new = await asyncio.to_thread(protection, files)
            self._refuse_less(new)
        except ConfigError as error:
            self.refused = error.problems
            self._reloaded(False)
            for one in self.refused:
                log.error("web.config_file refused; the last good one stays", problem=str(one))
            return
        before, self._protection, self.refused = self._protection, new, ()
        self.guard.replace(self._rules())
        if before.context is not new.context:
            self._end_idle()
        self._reloaded(True)
        log.info("web.config_file applied", tls=new.context is not None, users=len(new.settings.basic_auth_users))
        for one in new.warnings:
            log.warning("web.config_file", problem=str(one))

    def _refuse_less(self, new: Protection) -> None:
        """Raise ConfigError if the file lost a protection: that may be a file being written, or a mistake."""
        lost = sorted(self._protection.settings.protections() - new.settings.protections())
        if lost and self._files is not None:
            why = f"it has no {' and no '.join(lost)} any more; a restart puts this into effect"
            raise ConfigError([Problem(code="less_protection", message=why, file=self._files.path)])

    def _end_idle(self) -> None:
        """Close kept connections after their requests: they were made under the former TLS settings."""
        assert self._runner is not None
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            connection.close()

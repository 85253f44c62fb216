"""Prometheus and Alertmanager, where they are installed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.ports import HOST, free
from tocsin_demo.stack.processes import Process, Processes
from tocsin_demo.stack.workspace import filled, shipped

PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093

# Debian calls its Alertmanager otherwise.
_ALERTMANAGERS = ("alertmanager", "prometheus-alertmanager")


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """What there is of both. `missing`: programs that are not installed; `problem`: why installed ones do not run."""

    prometheus: Process | None = None
    prometheus_url: str = ""
    alertmanager: Process | None = None
    alertmanager_url: str = ""
    missing: tuple[str, ...] = ()
    problem: str = ""

    @property
    def running(self) -> tuple[Process, ...]:
        """Those that were started."""
        return tuple(process for process in (self.prometheus, self.alertmanager) if process is not None)


async def start(processes: Processes, *, tocsin_port: int, inbox: str) -> Monitoring:
    """Start what is installed, each with its data in the temporary directory and on this machine's own address only.
    Nothing waits for them, and the demo goes on without them."""
    try:
        return await _start(processes, tocsin_port=tocsin_port, inbox=inbox)
    except DemoError as error:
        return Monitoring(problem=str(error))


async def _start(processes: Processes, *, tocsin_port: int, inbox: str) -> Monitoring:
    prometheus = shutil.which("prometheus")
    alertmanager = next(filter(None, map(shutil.which, _ALERTMANAGERS)), None)
    missing = [name for name, found in (("prometheus", prometheus), ("alertmanager", alertmanager)) if not found]
    if prometheus is None:
        return Monitoring(missing=tuple(missing))
    places = {
        "TOCSIN_PORT": str(tocsin_port),
        "ALERTMANAGER_PORT": str(free(ALERTMANAGER_PORT)),
        "INBOX_URL": inbox,
    }
    notified = None
    if alertmanager is not None:
        notified = await _start_alertmanager(processes, alertmanager, places)
    port = free(PROMETHEUS_PORT)
    watching = await _start_prometheus(processes, prometheus, port, places, alerting=notified is not None)
    return Monitoring(
        prometheus=watching,
        prometheus_url=f"http://{HOST}:{port}",
        alertmanager=notified,
        alertmanager_url=f"http://{HOST}:{places['ALERTMANAGER_PORT']}" if notified else "",
        missing=tuple(missing),
    )


async def _start_prometheus(
    processes: Processes, program: str, port: int, places: dict[str, str], *, alerting: bool
) -> Process:
    directory = processes.directory
    text = shipped("stack", "prometheus", "prometheus.yml")
    if alerting:
        text += shipped("stack", "prometheus", "alerting.yml")
    config = _write(directory / "prometheus.yml", filled(text, places))
    _write(directory / "rules.yml", shipped("stack", "prometheus", "rules.yml"))
    return await processes.start(
        "prometheus",
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=warn",
    )


async def _start_alertmanager(processes: Processes, program: str, places: dict[str, str]) -> Process:
    directory = processes.directory
    text = shipped("stack", "prometheus", "alertmanager.yml")
    config = _write(directory / "alertmanager.yml", filled(text, places))
    return await processes.start(
        "alertmanager",
        program,
        f"--config.file={config}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={HOST}:{places['ALERTMANAGER_PORT']}",
        "--cluster.listen-address=",  # or it looks for others of its kind, on every interface
        "--log.level=warn",
    )


def _write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file

"""Prometheus and Alertmanager, where they are installed. The demo goes on without them."""

import shutil
from dataclasses import dataclass

from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.ports import HOST, free
from tocsin_demo.stack.processes import Process, Processes
from tocsin_demo.stack.workspace import write

_ALERTMANAGERS = ("alertmanager", "prometheus-alertmanager")  # the second is Debian's


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """Both programs. `running`: name -> process and URL; `hint`: what is missing and why."""

    running: dict[str, tuple[Process, str]]
    hint: str = ""


async def start(processes: Processes, *, tocsin_port: int, inbox: str) -> Monitoring:
    """Start what is installed, with its data in the temporary directory, on the loopback address."""
    prometheus = shutil.which("prometheus")
    alertmanager = next(filter(None, map(shutil.which, _ALERTMANAGERS)), None)
    missing = [name for name, path in (("prometheus", prometheus), ("alertmanager", alertmanager)) if not path]
    hint = ""
    if missing:
        hint = f"With {' and '.join(missing)} on the PATH, the demo runs them too: graphs, rules and grouped alerts."
    running: dict[str, tuple[Process, str]] = {}
    if prometheus is None:
        return Monitoring(running=running, hint=hint)
    try:
        places = {"TOCSIN_PORT": str(tocsin_port), "ALERTMANAGER_PORT": str(free(9093)), "INBOX_URL": inbox}
        if alertmanager is not None:
            process = await _start_alertmanager(processes, alertmanager, places)
            running["Alertmanager"] = process, f"http://{HOST}:{places['ALERTMANAGER_PORT']}/"
        port = free(9090)
        process = await _start_prometheus(processes, prometheus, port, places, alerting=bool(running))
        running["Prometheus"] = process, f"http://{HOST}:{port}/"
    except DemoError as error:
        hint = f"Without Prometheus: {error}"
    return Monitoring(running=running, hint=hint)


async def _start_prometheus(
    processes: Processes, program: str, port: int, places: dict[str, str], *, alerting: bool
) -> Process:
    directory = processes.directory
    config = write(directory / "prometheus.yml", "stack/prometheus/prometheus.yml", places)
    if alerting:
        more = write(directory / "alerting.yml", "stack/prometheus/alerting.yml", places)
        config.write_text(config.read_text() + more.read_text())
    write(directory / "rules.yml", "stack/prometheus/rules.yml", places)
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
    config = write(directory / "alertmanager.yml", "stack/prometheus/alertmanager.yml", places)
    return await processes.start(
        "alertmanager",
        program,
        f"--config.file={config}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={HOST}:{places['ALERTMANAGER_PORT']}",
        "--cluster.listen-address=",  # or it searches for others of its kind, on every interface
        "--log.level=warn",
    )

"""Prometheus and Alertmanager, where they are installed. The demo goes on without them."""

import shutil
from pathlib import Path
from typing import TypeAlias

from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.ports import HOST, free
from tocsin_demo.stack.processes import Process, Processes
from tocsin_demo.stack.workspace import write

_ALERTMANAGERS = ("alertmanager", "prometheus-alertmanager")  # the second is Debian's


Monitoring: TypeAlias = dict[str, tuple[Process, str]]
"""Name -> process and URL."""


async def start(processes: Processes, *, tocsin_port: int, inbox: str) -> tuple[Monitoring, str]:
    """Start what is installed, with its data in the temporary directory, on the loopback address; name the rest."""
    prometheus = shutil.which("prometheus")
    alertmanager = next(filter(None, map(shutil.which, _ALERTMANAGERS)), None)
    missing = [name for name, path in (("prometheus", prometheus), ("alertmanager", alertmanager)) if not path]
    hint = ""
    if missing:
        hint = f"With {' and '.join(missing)} on the PATH, the demo runs them too: graphs, rules and grouped alerts."
    running: Monitoring = {}
    directory = processes.directory
    try:
        places = {"TOCSIN_PORT": str(tocsin_port), "ALERTMANAGER_PORT": str(free(9093)), "INBOX_URL": inbox}
        if prometheus and alertmanager:
            address = f"{HOST}:{places['ALERTMANAGER_PORT']}"
            config = write(directory / "alertmanager.yml", "stack/prometheus/alertmanager.yml", places)
            # Without an address for a cluster, or it searches for others of its kind on every interface.
            options = [f"--storage.path={directory / 'alertmanager'}", "--cluster.listen-address="]
            process = await _start(processes, alertmanager, "alertmanager", config, address, *options)
            running["Alertmanager"] = process, f"http://{address}/"
        if prometheus:
            address = f"{HOST}:{free(9090)}"
            config = write(directory / "prometheus.yml", "stack/prometheus/prometheus.yml", places)
            if running:
                more = write(directory / "alerting.yml", "stack/prometheus/alerting.yml", places)
                config.write_text(config.read_text() + more.read_text())
            write(directory / "rules.yml", "stack/prometheus/rules.yml", places)
            options = [f"--storage.tsdb.path={directory / 'prometheus'}"]
            process = await _start(processes, prometheus, "prometheus", config, address, *options)
            running["Prometheus"] = process, f"http://{address}/"
    except DemoError as error:
        hint = f"Without Prometheus: {error}"
    return running, hint


async def _start(processes: Processes, program: str, name: str, config: Path, address: str, *options: str) -> Process:
    always = (f"--config.file={config}", f"--web.listen-address={address}", "--log.level=warn")
    return await processes.start(name, program, *always, *options)

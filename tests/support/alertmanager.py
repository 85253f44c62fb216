"""A real Alertmanager for tests."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from support.monitoring_programs import Generation, program
from support.ports import free_port
from support.prometheus import daemon


@dataclass(frozen=True, slots=True, kw_only=True)
class Alertmanager:
    """A server that runs."""

    port: int
    client: aiohttp.ClientSession
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def alerts(self) -> dict[str, dict[str, Any]]:
        """Its alerts, by the label `alertname`."""
        async with self.client.get(f"{self.url}/api/v2/alerts") as response:
            assert response.status == 200, await response.text()
            return {alert["labels"]["alertname"]: alert for alert in await response.json()}

    async def report(self, labels: Mapping[str, str], *, summary: str = "", over: bool = False) -> None:
        """Send an alert as Prometheus does, firing or resolved."""
        now = datetime.now(UTC)
        ends = now if over else now + timedelta(minutes=5)
        alert = {
            "labels": dict(labels),
            "annotations": {"summary": summary or labels["alertname"], "description": "What it is."},
            "startsAt": (now - timedelta(seconds=1)).isoformat(),
            "endsAt": ends.isoformat(),
        }
        async with self.client.post(f"{self.url}/api/v2/alerts", json=[alert]) as response:
            assert response.status == 200, await response.text()


@asynccontextmanager
async def alertmanager(
    folder: Path, file: Path, *more: str, port: int | None = None, generation: Generation = "installed"
) -> AsyncIterator[Alertmanager]:
    """An Alertmanager with this configuration file, its data below `folder`. `more`: arguments. `port`: one to come
    back to."""
    port = port or free_port()
    command = (
        program("alertmanager", generation),
        f"--config.file={file}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",  # or it looks for peers on every interface
        *more,
    )
    url = f"http://127.0.0.1:{port}/-/ready"
    async with aiohttp.ClientSession() as client, daemon(url, folder / "alertmanager.log", *command) as process:
        yield Alertmanager(port=port, client=client, process=process)

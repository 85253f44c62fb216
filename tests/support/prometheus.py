"""A real Prometheus for tests, and a parser of PromQL."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from support.monitoring_programs import Generation, program
from support.ports import free_port
from support.waiting import SOON, until_some


async def run(*command: str | Path) -> tuple[int, str]:
    """Run a program to its end: exit status and output."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(3 * SOON):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@asynccontextmanager
async def daemon(url: str, log: Path, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server for the length of the block, at whose end it is killed. It answers at `url` when the body begins; its
    output is in `log`."""
    with log.open("wb") as words:
        process = await asyncio.create_subprocess_exec(*command, stdout=words, stderr=words)
    try:
        async with aiohttp.ClientSession() as client:

            async def answers() -> bool:
                assert process.returncode is None, log.read_text(encoding="utf-8")
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.get(url) as response:
                        return response.status == 200
                return False

            await until_some(answers, f"an answer from {command[0]}")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A server that runs."""

    url: str
    client: aiohttp.ClientSession

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the API. Raises ValueError with the error of the server."""
        async with self.client.get(f"{self.url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters}: {answer['error']}")
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now."""
        data = await self.get("query", query=expression)
        return list(data["result"])

    async def range(self, expression: str, *, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        """The series of an expression over a time."""
        data = await self.get("query_range", query=expression, start=str(start), end=str(end), step=str(step))
        return list(data["result"])


@asynccontextmanager
async def prometheus(
    folder: Path, config: Mapping[str, Any], generation: Generation = "installed"
) -> AsyncIterator[Prometheus]:
    """A Prometheus with this configuration, its data below `folder`."""
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = (
        program("prometheus", generation),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--scrape.discovery-reload-interval=100ms",  # or it scrapes nothing for up to five seconds
    )
    async with aiohttp.ClientSession() as client, daemon(f"{url}/-/ready", folder / "prometheus.log", *command):
        yield Prometheus(url=url, client=client)


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_LISTS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"}


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    bare = _STRING.sub('""', expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\boffset\s+\w+", " ", _LISTS.sub(" ", bare))
    return set(_NAME.findall(bare)) - _WORDS - {"inf", "nan", "Inf", "NaN"}

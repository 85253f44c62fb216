"""Tocsin on the configuration of an example."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.tocsin import TocsinProcess, running_with

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def example(name: str, directory: Path, **environment: str) -> AsyncIterator[TocsinProcess]:
    """Tocsin on the configuration of an example, once it is ready."""
    file = directory / "tocsin.yaml"
    file.write_text((EXAMPLES / name / "tocsin.yaml").read_text() + '\nweb: {listen: "127.0.0.1:0"}\n')
    async with running_with(directory, "--config", str(file), file=file, INTERVAL="100ms", **environment) as tocsin:
        await tocsin.until_ready()
        yield tocsin

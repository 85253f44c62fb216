"""The life of one process, from its start until it is stopped or killed."""

import asyncio
from collections.abc import Callable, Mapping

from tocsin.app.inputs import Inputs
from tocsin.app.outputs import Outputs
from tocsin.channels.base import Channel, Level
from tocsin.config import Config, SourceConfig
from tocsin.exposition import Metrics, Page
from tocsin.ledger.base import Ledger
from tocsin.pipeline.feed import Feed
from tocsin.sources.base import EventSource, Source


class Life:
    """The objects of one process, as `app.runtime` has them."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger | None,
        channels: Mapping[str, Channel | Level],
        make_source: Callable[[SourceConfig], Source | EventSource],
        *,
        wall: Callable[[], float],
        ended: Callable[[], None],
    ) -> None:
        """`wall`: the wall clock. `ended`: called when the process ends by itself, which is a defect or a stall."""
        self.ledger = ledger
        self._config = config
        self._channels = channels
        self._make_source = make_source
        self._wall = wall
        self._ended = ended
        self._running = asyncio.Event()
        self._ending = asyncio.Event()
        self._stall = ""
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Return when everything is started."""
        self._task = asyncio.create_task(self._run(), name="life")
        self._task.add_done_callback(lambda _: self._ended())
        running = asyncio.create_task(self._running.wait())
        await asyncio.wait({self._task, running}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        self.check()

    def check(self) -> None:
        """Raise what has ended the process."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def _run(self) -> None:
        times = {"clock": self._wall, "monotonic": asyncio.get_running_loop().time, "chance": lambda: 1.0}
        async with asyncio.TaskGroup() as tasks:
            metrics = Metrics("simulation")
            self._page, feed = Page(metrics), Feed()
            self._outputs = Outputs(tasks, metrics, **times)
            self.inputs = Inputs(
                tasks,
                metrics,
                self._page,
                feed,
                self._outputs,
                self._stalled,
                make_source=self._make_source,
                tap=None,
                **times,
            )
            config, ledger = self._config, self.ledger
            await self.inputs.update(config, ledger, frozenset(config.row_alerts))
            self._outputs.start(config, self._channels, ledger, self.inputs.current, self._wall())
            self._running.set()
            await self._ending.wait()
            await self._outputs.finish_levels()
            await self.inputs.stop()
            await self._outputs.drain()

    def _stalled(self, why: str) -> None:
        self._stall = why

    async def stop(self) -> None:
        """Stop as SIGTERM does: what is ready is sent first."""
        assert self._task is not None
        self._ending.set()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._close()

    async def kill(self) -> None:
        """Stop at once."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._close()

    async def _close(self) -> None:
        if self.ledger is not None:
            await self.ledger.close()

    async def close_silences(self) -> bool:
        """Close the silences whose end has come, as `Runtime` does. Returns whether there were any."""
        return self.ledger is not None and bool(await self._outputs.close_silences(self.ledger))

    def series(self) -> str:
        """The gauges of the alerts, as Prometheus reads them."""
        return self._page.series(self._wall())

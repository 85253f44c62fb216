"""Any sequence of answers, losses, kills, drops and commits, against a receiver that keeps answers under idempotency
keys: each notification is accepted once, however often a request has to be repeated."""

import asyncio
import random
from pathlib import Path

import pytest

from support.bulking import LIMITED, LOST, KeyedChannel, KeyedReceiver
from support.dispatching import DispatcherHarness
from tocsin.channels.base import Rejected, Result
from tocsin.errors import Reason
from tocsin.ledger.base import Status

STEPS = 25


class Network:
    """What happens to requests, by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.fair = False

    def line(self) -> Result | None:
        """Half of the requests get through with their answer."""
        if self.fair:
            return None
        return self.chance.choice([None, None, None, LOST, LOST, LIMITED])


@pytest.mark.parametrize("seed", range(8))
async def test_each_is_accepted_once_after_any_history(tmp_path: Path, seed: int) -> None:
    """A request keeps its members, their order and its key until its outcome is known."""
    network = Network(seed)
    chance = network.chance
    harness = DispatcherHarness(tmp_path / "ledger")
    receiver = KeyedReceiver()
    odd: set[str] = set()
    receiver.refuses = lambda ids: Rejected(Reason.REJECTED, "400") if odd.intersection(ids) else None
    channels: list[KeyedChannel] = []

    def start() -> None:
        channel = KeyedChannel(receiver, most=chance.choice([3, 7]))
        channel.line = network.line
        channel.arrives = chance.random() < 0.7
        channels.append(channel)
        harness.start(channel, max_attempts=None, max_age=1e9, concurrency=3)

    try:
        start()
        number = 0
        for _ in range(STEPS):
            count = chance.choice([0, 1, 2, 5, 12])
            ids = await harness.fire(*(str(number + more) for more in range(count)))
            number += count
            odd.update(id_ for id_ in ids if chance.random() < 0.05)
            match chance.choice(["wait", "wait", "kill", "turn"]):
                case "wait":
                    await harness.advance(chance.choice([0.5, 3, 20]))
                case "kill":
                    await asyncio.sleep(0)
                    await harness.stop()
                    # Other sizes of requests would make other requests: that is a change of the configuration.
                    most = channels[-1].most
                    start()
                    channels[-1].most = most
                case "turn":
                    for _ in range(chance.randrange(20)):
                        await asyncio.sleep(0)
        network.fair = True

        for _ in range(12):
            await harness.advance(70)
        records = await harness.records()
        assert Status.PENDING not in {record.status for record in records}
        delivered = {record.id for record in records if record.status is Status.DELIVERED}
        assert {record.id for record in records if record.status is Status.DEAD} == odd
        assert receiver.accepted.keys() == delivered
        assert set(receiver.accepted.values()) <= {1}
        # A final error whose answer was lost is requested again under its key: the client does not know it.
        assert not [complaint for complaint in receiver.broken if complaint.startswith("another body")]
    finally:
        await harness.close()

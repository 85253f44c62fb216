"""A kind of channel or source is one module and one line: what is written about it, and what runs it, follows."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml

from support.dispatching import compose
from support.ledger import commit, transition
from support.pigeon import Pigeon
from support.waiting import until_some
from tocsin import registry
from tocsin.app.build import make_channel, policy
from tocsin.config import Config, load
from tocsin.config.schema import schema
from tocsin.dispatch import Dispatcher
from tocsin.errors import ConfigError
from tocsin.exposition import Metrics
from tocsin.ledger.base import Filter, Status
from tocsin.ledger.sqlite import open_ledger

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def pigeons(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(registry.CHANNELS, "pigeon", "support.pigeon")


def loaded(directory: Path, channel: Mapping[str, Any], **route: Any) -> Config:
    """A configuration whose one alert is told by this channel."""
    file = directory / "tocsin.yaml"
    config = {
        "sources": {"shop": {"type": "postgres", "host": "db", "user": "tocsin"}},
        "channels": {"roof": channel},
        "alerts": {"late": {"source": "shop", "relation": "late", "notify": [{"channel": "roof", **route}]}},
    }
    file.write_text(yaml.safe_dump(config))
    return load(file, {})


def test_the_tables_in_the_readme_are_those_of_the_registry() -> None:
    assert generate.kinds_table(README) == README, "run: make docs"


@pytest.mark.usefixtures("pigeons")
def test_a_kind_that_is_added_shows_in_the_readme_the_settings_and_the_schema() -> None:
    row = "| `pigeon` | A pigeon with a note. | tocsin[pigeon] |\n"
    assert row not in README
    assert row in generate.kinds_table(README).partition("<!-- channels,")[2].partition("<!-- end of channels -->")[0]
    assert "### `type: pigeon`" in generate.settings_page()
    assert schema()["$defs"]["pigeon_channel"]["required"] == ["type", "loft"]


def test_a_source_that_is_added_shows_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "second_http", registry.SOURCES["http"])
    table = generate.kinds_table(README).partition("<!-- sources,")[2].partition("<!-- end of sources -->")[0]
    assert "\n| `second_http` | Events that others send to Tocsin's own port." in table


def test_a_readme_that_is_out_of_date_is_told_and_then_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    assert generate.main(["--directory", str(pages)]) == 0
    (tmp_path / "README.md").write_text(README.replace("| `console` |", "| `terminal` |"))
    assert generate.main(["--check", "--directory", str(pages)]) == 1
    assert "out of date: README.md; run: make docs" in capsys.readouterr().err
    assert generate.main(["--directory", str(pages)]) == 0
    assert "\n| `console` | A line on standard output" in (tmp_path / "README.md").read_text()


def test_a_kind_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pigeon"):
        loaded(tmp_path, {"type": "pigeon", "loft": "tower"})


@pytest.mark.usefixtures("pigeons")
async def test_a_kind_that_is_added_is_configured_and_delivers(tmp_path: Path) -> None:
    config = loaded(tmp_path, {"type": "pigeon", "loft": "tower", "max_attempts": 3}, loft="barn").channels["roof"]
    channel = make_channel(config)
    assert isinstance(channel, Pigeon)
    treated = policy(config)
    assert treated.max_attempts == 3
    ledger = open_ledger(tmp_path / "ledger")
    dispatcher = Dispatcher(
        "roof", channel, treated, ledger=ledger, compose=compose, metrics=Metrics("0").channel("roof")
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(dispatcher.run())
        [told] = await ledger.commit(commit([transition()], to=["roof"]))
        dispatcher.offer([told])

        async def delivered() -> bool:
            return [one.status for one in await ledger.find(Filter())] == [Status.DELIVERED]

        await until_some(delivered)
        running.cancel()
    await ledger.close()
    assert channel.arrived == [("barn", told.id)]

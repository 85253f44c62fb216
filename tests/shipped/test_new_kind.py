"""A new type of channel or source is one module and one line in the registry; documentation and schema follow."""

from pathlib import Path

import generate
import pytest
import yaml

from support.messages import message
from support.sample_channel import SampleChannel
from support.sending import sent
from tocsin import registry
from tocsin.app.build import make_channel, policy
from tocsin.channels.base import Delivered
from tocsin.config import Config, load
from tocsin.config.schema import schema

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(registry.CHANNELS, "sample", "support.sample_channel")


def loaded(directory: Path) -> Config:
    """A configuration with one alert that notifies a channel of the new type."""
    file = directory / "tocsin.yaml"
    notify = {"channel": "new", "target": "from the alert"}
    config = {
        "sources": {"shop": {"type": "postgres", "host": "db", "user": "tocsin"}},
        "channels": {"new": {"type": "sample", "target": "from the channel", "max_attempts": 3}},
        "alerts": {"late": {"source": "shop", "relation": "late", "notify": [notify]}},
    }
    file.write_text(yaml.safe_dump(config))
    return load(file, {})


def table(family: str) -> str:
    return generate.kinds_table(README).partition(f"<!-- {family},")[2].partition(f"<!-- end of {family} -->")[0]


def test_readme_has_the_tables_of_the_registry() -> None:
    assert generate.kinds_table(README) == README, "run: make docs"


@pytest.mark.usefixtures("sample")
def test_new_channel_is_in_readme_settings_and_schema() -> None:
    assert "| `sample` | A sample. | tocsin[sample] |\n" in table("channels")
    assert "### `type: sample`" in generate.settings_page()
    assert schema()["$defs"]["sample_channel"]["required"] == ["type", "target"]


def test_new_source_is_in_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "second_http", registry.SOURCES["http"])
    assert "\n| `second_http` | " in table("sources")


@pytest.mark.usefixtures("sample")
async def test_new_channel_is_configured_and_sends(tmp_path: Path) -> None:
    config = loaded(tmp_path).channels["new"]
    channel = make_channel(config)
    assert isinstance(channel, SampleChannel)
    assert policy(config).max_attempts == 3
    one = message(alert="late")
    assert await sent(channel, one) == Delivered()
    assert channel.sent == [("from the alert", one.id)]

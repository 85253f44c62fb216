"""What the settings of a Kafka source refuse, and what a source says where the library is missing. No socket."""

import re
import sys
from typing import Any

import pytest

from support.kafka_events import source
from tocsin.channels import kafka as channel_kind
from tocsin.errors import ConfigError
from tocsin.sources import kafka as kind


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"state": True, "group": "g"}, "group can be said only of events"),
        ({"columns": {"a": "text"}}, "columns can be said only of `state: true`"),
        ({"dead_letters": "a b"}, "no name of a topic"),
        ({"stale_after": "1s"}, "shorter than progress_timeout"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind.Config.model_validate({"bootstrap_servers": ["h:1"], **settings})


def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    for name in [
        name for name in sys.modules if re.match(r"tocsin\.(sources|channels)\.kafka\.(events|channel)$", name)
    ]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"sources\.k: .*pip install 'tocsin\[kafka\]'"):
        source("h:1", "g")
    config = channel_kind.Config.model_validate({"type": "kafka", "bootstrap_servers": ["h:1"], "topic": "t"})
    with pytest.raises(ConfigError, match=r"channels\.k: .*pip install 'tocsin\[kafka\]'"):
        channel_kind.build("k", config, {"late": config})


def test_what_it_delivers_depends_on_state() -> None:
    events = kind.Config(bootstrap_servers=["h:1"])
    rows = kind.Config(bootstrap_servers=["h:1"], state=True)
    assert (events.delivers, rows.delivers) == ("events", "rows")
    assert events.subjects == rows.subjects == ("topic",)

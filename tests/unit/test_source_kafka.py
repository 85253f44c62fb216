"""What the settings of a Kafka source refuse, what it says where the library is missing, and which position holds for
which topic. No socket."""

import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.kafka_events import source
from tocsin.channels import kafka as channel_kind
from tocsin.errors import ConfigError
from tocsin.sources import kafka as kind
from tocsin.sources.kafka.positions import Place, positions, written


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


# How far a topic is read.


def test_a_position_holds_for_the_topic_that_it_was_reached_in_and_for_no_other_of_its_name() -> None:
    kept = {"t/0@one": 7, "t/1@one": 8, "t/0@two": 3, "u/0@three": 1}
    found = positions(kept, {"t": "two", "u": "four"})
    assert (found.safe, found.former) == ({("t", 0): 3}, {("t", 1): 8, ("u", 0): 1})
    assert (found.topics, found.anew) == ({"t", "u"}, {"u"})
    assert written(("t", 0), {"t": "two"}) == "t/0@two"


def test_a_position_from_before_topics_had_an_identity_holds_until_there_was_another_topic_of_its_name() -> None:
    assert positions({"t/0": 7, "t/1": 8, "t/0@one": 9}, {"t": "one"}).safe == {("t", 0): 9, ("t", 1): 8}
    assert positions({"t/0": 7, "t/0@one": 9}, {"t": "two"}).safe == {}
    assert positions({"t/0": 7}, {"t": ""}).safe == {("t", 0): 7}
    assert written(("t", 0), {"t": ""}) == "t/0"


def test_a_position_holds_while_the_brokers_give_no_identity_any_more_and_when_they_give_it_again() -> None:
    before = {"t/0@one": 7, "t/1@one": 8}
    without = positions(before, {"t": ""})
    assert (without.safe, without.former, without.anew) == ({("t", 0): 7, ("t", 1): 8}, {}, set())
    after = {**before, written(("t", 0), without.identities): 9}
    assert positions(after, {"t": "one"}).safe == {("t", 0): 9, ("t", 1): 8}
    assert positions(after, {"t": "two"}).anew == {"t"}


def test_of_two_positions_that_hold_the_one_with_an_identity_which_came_later_counts() -> None:
    for now in ("one", ""):
        assert positions({"t/0@one": 2, "t/0": 7}, {"t": now}).safe == {("t", 0): 2}


def test_which_of_two_topics_it_is_that_the_brokers_give_no_identity_of_is_not_guessed() -> None:
    found = positions({"t/0@one": 7, "t/0@two": 3, "t/1": 5}, {"t": ""})
    assert (found.safe, set(found.former)) == ({("t", 1): 5}, {("t", 0)})
    assert found.identities == {"t": ""}


@given(
    st.dictionaries(st.tuples(st.sampled_from("tu"), st.integers(0, 3)), st.integers(0, 9)), st.sampled_from(["", "a"])
)
def test_what_was_written_is_read_again_as_it_was(read: dict[Place, int], identity: str) -> None:
    identities = {"t": identity, "u": "b"}
    found = positions({written(place, identities): offset for place, offset in read.items()}, identities)
    assert (found.safe, found.former) == (read, {})

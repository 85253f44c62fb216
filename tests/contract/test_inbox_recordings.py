"""The inbox answers as a real Novu did, of two releases, by recordings."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from support.novu_recordings import LEFT_OUT, Recording, Reply, compared, normal, recordings, replay_all, start_of

UNEQUAL: Mapping[str, tuple[str, ...]] = {
    # The worker of the real server had not yet caught up with the bulk before.
    "ratelimit_on_messages": ("totalCount", "hasMore", "data"),
}
"""Fields of an answer that are not compared."""
COUNTED_TOO_EARLY = {"size_bulk_100_of_30k"}
"""Their effects were counted before the real store had finished."""


@pytest.fixture(scope="module")
def replies() -> Mapping[str, Reply]:
    return asyncio.run(replay_all())


@pytest.mark.xdist_group("novu-recordings")  # replayed once, in one process
@pytest.mark.parametrize("recording", compared(), ids=lambda each: each.name)
def test_the_inbox_answers_as_novu_did(recording: Recording, replies: Mapping[str, Reply]) -> None:
    reply = replies[recording.name]
    assert reply.status == recording.status
    assert dict(reply.headers) == dict(recording.headers)
    if isinstance(recording.body, dict) and "_truncated_" in recording.body:
        answered, expected = start_of(reply.body, recording.body["_truncated_"])
    else:
        answered, expected = normal(reply.body), normal(recording.body)
        for name in UNEQUAL.get(recording.name, ()):
            assert answered.keys() == expected.keys()
            answered.pop(name)
            expected.pop(name)
    assert answered == expected
    if recording.observed is not None and recording.name not in COUNTED_TOO_EARLY:
        assert reply.seen == recording.observed


UNEQUAL_3_15: Mapping[str, str] = {
    "trigger_malformed_json": "the words of another JSON parser",
    "subscriber_get_unknown": "other words, which no one reads",
    "list_messages_unknown_subscriber": "other words, which no one reads",
    "size_21m": "the limit of 26 MB; Tocsin's own is far below",
    "size_subscriber_create_150k": "a limit beyond events",
    "list_messages_bad_page": "a page below zero, which Tocsin does not ask for",
}
"""Answers of 3.15.0 that the inbox does not give."""
SEEN_OTHERWISE_3_15: Mapping[str, str] = {
    "trigger_to_array_101": "read while the worker was still busy",
    "size_bulk_100_of_30k": "counted here, not there",
    "dup_window_by_pause_ms": "a slower machine: pauses up to 320 ms were doubled at times",
    "idem_in_progress_3_concurrent_bulk": "not counted here",
    "idem_no_txn_second": "written down in another way",
    "digest_cancel_first": "written down in another way",
    "after_delay_digest_second": "read later",
}
"""Their effects were recorded at another time or in another form."""


@pytest.fixture(scope="module")
def newer_replies() -> Mapping[str, Reply]:
    return asyncio.run(replay_all("3.15.0"))


def _read(recording: Recording, body: Any) -> Any:
    """The parts of an answer that a client reads: the message of an error, the entries of a trigger."""
    if recording.status is None or recording.method == "GET":
        return None
    if recording.status >= 400:
        return body["message"]
    data = body.get("data") if isinstance(body, dict) else body
    if isinstance(data, dict) and "acknowledged" not in data:
        return None  # a subscriber
    entries = data if isinstance(data, list) else [data]
    return [_entry(entry) if isinstance(entry, dict) else entry for entry in entries]


def _entry(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    id_ = entry.get("transactionId")
    made_up = isinstance(id_, str) and (id_ == "<uuid>" or id_.startswith("txn_"))
    read = {name: value for name, value in entry.items() if name != "activityFeedLink"}
    return {**read, **({"transactionId": "made up"} if made_up else {}), "link": "activityFeedLink" in entry}


@pytest.mark.xdist_group("novu-recordings-3.15")
@pytest.mark.parametrize(
    "recording",
    [each for each in compared("3.15.0") if each.name not in UNEQUAL_3_15],
    ids=lambda each: each.name,
)
def test_the_inbox_answers_as_novu_3_15(recording: Recording, newer_replies: Mapping[str, Reply]) -> None:
    """Status, headers, the parts that a client reads, and the effects."""
    reply = newer_replies[recording.name]
    assert reply.status == recording.status
    assert dict(reply.headers) == dict(recording.headers)
    if not (isinstance(recording.body, dict) and "_truncated_" in recording.body):
        assert _read(recording, normal(reply.body)) == _read(recording, normal(recording.body))
    if recording.observed is not None and recording.name not in SEEN_OTHERWISE_3_15:
        assert reply.seen == recording.observed


def test_only_named_recordings_are_left_out() -> None:
    assert set(LEFT_OUT) < {each.name for each in recordings()}
    assert len(recordings()) == 217
    assert {*UNEQUAL_3_15, *SEEN_OTHERWISE_3_15} < {each.name for each in recordings("3.15.0")}
    assert len(recordings("3.15.0")) == 186

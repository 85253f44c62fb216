"""The inbox answers as a real Novu did, of two releases, by recordings."""

from typing import Any

import pytest

from support.novu_recordings import FILES, RULES, Recording, compared, read, recordings, replay_all


def cases() -> list[Any]:
    """Each recording; those of a release are replayed once, in one process."""
    return [
        pytest.param(each, id=f"{release}-{each.name}", marks=pytest.mark.xdist_group(f"novu-recordings-{release}"))
        for release in FILES
        for each in compared(release)
    ]


@pytest.mark.parametrize("recording", cases())
def test_the_inbox_answers_as_novu_did(recording: Recording) -> None:
    """Status, headers, what a client reads of the body, and the effects."""
    expected, reply = recording.reply, replay_all(recording.release)[recording.name]
    assert reply.status == expected.status
    assert reply.headers == expected.headers
    if "_truncated_" not in (expected.body or ()):
        assert read(recording, reply) == read(recording, expected)
    if expected.seen is not None and recording.name not in RULES["effects_not_compared"][recording.release]:
        assert reply.seen == expected.seen


def test_only_named_recordings_are_left_out() -> None:
    names = {release: {each.name for each in recordings(release)} for release in FILES}
    assert {release: len(found) for release, found in names.items()} == {"2.0.0": 217, "3.15.0": 186}
    assert {*RULES["left_out"], *RULES["pauses"], *RULES["malformed"]} <= names["2.0.0"]
    for rule in ("answers_not_compared", "effects_not_compared"):
        assert all(RULES[rule][release].keys() <= found for release, found in names.items())

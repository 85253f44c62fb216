"""Explanations of one notification: what became of it, and what happens to it next."""

from collections.abc import Sequence
from typing import Any

import pytest

from support.explaining import KEY, NOW, SILENCE, START, channel, notified, record
from tocsin.errors import Reason
from tocsin.explain.lives import life
from tocsin.ledger.base import Attempt, Status
from tocsin.model import Kind
from tocsin.silences.ending import Held

BEFORE = record(seq=1, status=Status.PENDING, attempts=3, reason="timeout", detail="no answer", not_before=NOW + 9)
PENDING = record(seq=5, status=Status.PENDING, kind="updated")

LIVES: dict[str, tuple[dict[str, Any], dict[str, Any], Sequence[str], float | None]] = {
    "delivered": ({"detail": "200"}, {}, ["delivered at", "the receiver answered: 200"], None),
    "delivered at last": ({"detail": "200", "failed": 2}, {}, ["at attempt 3"], None),
    "dead": (
        {"status": Status.DEAD, "reason": Reason.REJECTED, "detail": "400 no"},
        {},
        ["given up on at", "rejected: 400 no", "would refuse it again", "tocsin outbox retry"],
        None,
    ),
    "dead for a template": ({"status": Status.DEAD, "reason": Reason.TEMPLATE}, {}, ["nothing was sent"], None),
    "dropped": ({"status": Status.DROPPED}, {}, ["dropped at", "so it is not sent"], None),
    "dropped after a silence": (
        {"status": Status.DROPPED, "reason": "silenced", "detail": "by s1"},
        {},
        ["when a silence ended: by s1"],
        None,
    ),
    "sent now": ({"status": Status.PENDING}, {}, ["it is sent now"], NOW),
    "to be sent by no one": (
        {"status": Status.PENDING},
        {"state": None},
        ["whether a process sends it is not known"],
        NOW,
    ),
    "retried": (
        {"status": Status.PENDING, "attempts": 2, "reason": "timeout", "detail": "no answer", "not_before": NOW + 20},
        {},
        ["2 attempts failed, the last one for: timeout: no answer", "the next attempt is at", "(in 20s)"],
        NOW + 20,
    ),
    "refused without an attempt that counts": (
        {"status": Status.PENDING, "reason": "unauthorized", "detail": "401"},
        {},
        ["the last attempt failed: unauthorized: 401"],
        NOW,
    ),
    "in a digest": (
        {
            "status": Status.PENDING,
            "digest": 4,
            "not_before": NOW + 60,
            "line": [{"digest": 4}, {"digest": 4, "seq": 5}],
        },
        {},
        ["waits in a digest with 1 other, which is sent at", "(in 1m)"],
        NOW + 60,
    ),
    "behind another": (
        {"record": PENDING, "line": [BEFORE, PENDING]},
        {},
        [
            "waits behind",
            "the fired of",
            "which fails for: timeout: no answer",
            "(in 9s)",
            "same row are sent in order",
        ],
        None,
    ),
    "while the channel is paused": (
        {"status": Status.PENDING},
        {"state": "paused", "message": "unauthorized: 401", "opens_in": 30.0},
        ["the channel is paused (unauthorized: 401): it sends again at"],
        NOW + 30,
    ),
    "under a rate limit": (
        {"status": Status.PENDING},
        {"opens_in": 5.0, "is_limited": True},
        ["the rate limit of the channel: it sends again at"],
        NOW + 5,
    ),
    "of a removed channel": ({"status": Status.PENDING}, {"kind": ""}, ["is not configured", "dead letter"], None),
    "held by a silence": (
        {"status": Status.PENDING, "reason": "silenced", "silenced_by": "s1", "silence": SILENCE},
        {},
        ["held back by the silence s1 until", "(in 10m): a move (by ann)"],
        NOW + 600,
    ),
}


def held_kinds(*kinds: Kind, goes_on: bool, may_be_known: bool = False) -> list[Held]:
    common = "hook", KEY, "s1", "late", KEY, START
    return [Held(seq, *common, kind, goes_on, may_be_known) for seq, kind in enumerate(kinds, 3)]


@pytest.mark.parametrize(
    ("held", "then"),
    [
        (held_kinds(Kind.FIRED, goes_on=True), "is sent if its row still fires then, and else dropped"),
        (
            held_kinds(Kind.FIRED, Kind.RESOLVED, goes_on=False),
            "is dropped: began and ended while it was silenced",
        ),
        (held_kinds(Kind.FIRED, goes_on=False), "is dropped: began and ended while it was silenced"),
        (held_kinds(Kind.FIRED, goes_on=False, may_be_known=True), "is sent"),
        (held_kinds(Kind.RESOLVED, goes_on=False), "is sent"),
        (held_kinds(Kind.EVENT, goes_on=False), "is dropped: an event while it was silenced"),
        (held_kinds(Kind.REPEATED, goes_on=True), "is dropped: a reminder while it was silenced"),
    ],
)
def test_end_of_a_silence_is_said_as_it_will_be(held: list[Held], then: str) -> None:
    given = notified(status=Status.PENDING, kind=held[0].kind, silenced_by="s1", silence=SILENCE, held=held)
    step = life(given, channel(), NOW).next
    assert step is not None
    assert (step.at, step.text) == (NOW + 600, f"the silence ends, and the {held[0].kind} to hook {then}")


@pytest.mark.parametrize("name", LIVES)
def test_notification_is_said_with_what_is_next(name: str) -> None:
    given, of_channel, parts, at = LIVES[name]
    found = life(notified(**given), channel(**of_channel), NOW)
    for part in parts:
        assert part.lower() in " ".join(found.says).lower(), found.says
    assert (found.next.at if found.next else None) == at


def test_answers_end_with_the_receivers_last_word() -> None:
    attempts = [
        Attempt(at=NOW - 9, reason="timeout", detail="no answer"),
        Attempt(at=NOW - 5, reason="rejected", detail="400"),
    ]
    dead = life(notified(status=Status.DEAD, reason="rejected", detail="400", attempts_made=attempts), channel(), NOW)
    assert [(one.outcome, one.answer) for one in dead.answers] == [("failed", "no answer"), ("dead", "400")]
    delivered = life(notified(detail="200", attempts_made=attempts[:1]), channel(), NOW)
    assert [(one.outcome, one.answer) for one in delivered.answers] == [("failed", "no answer"), ("delivered", "200")]

"""Requests of a level output: content, receivers and times (in seconds); what Alertmanager is sent of a firing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.alertmanager_output import NOW, active, output
from support.levels import POLICY
from support.messages import message
from tocsin.channels.base import ActiveAlert, Delivered
from tocsin.dispatch.level import ActiveAlerts
from tocsin.dispatch.receiver import Receiver
from tocsin.errors import ConfigError

EXPIRY = 4 * POLICY.resend
SEEN = st.dictionaries(st.sampled_from("AB"), st.none() | st.sets(st.sampled_from("vwxyz")), max_size=2)


def alert(identity: str, *, content: bytes = b"", started_at: float = 0.0) -> ActiveAlert:
    return ActiveAlert(identity=identity, content=content, started_at=started_at)


class Server:
    """A minimal Alertmanager that knows until when each alert fires. `active`: the expected alerts."""

    def __init__(self, *, limit: int = 1000) -> None:
        self.active = ActiveAlerts()
        self.until: dict[str, float] = {}
        self.limit = limit
        self._receiver = Receiver("am", "a", POLICY, lambda: 0.0)

    def update(
        self, now: float, seen: Mapping[str, Sequence[ActiveAlert] | None], *, wall: float | None = None
    ) -> None:
        self.active.update(seen, now, now if wall is None else wall, replace(POLICY, limit=self.limit))

    def send(self, now: float) -> list[tuple[str, float | None]]:
        """Identity and end of each alert that is sent now."""
        due = self._receiver.due(self.active.alerts, now)
        for one in due:
            self.until[one.identity] = now + EXPIRY if one.ended_at is None else one.ended_at
        if due:
            self._receiver.sent(due, [Delivered()] * len(due), self.active.alerts, now)
        assert self._receiver.pending(self.active.alerts) == []
        return [(one.identity, one.ended_at) for one in due]

    def firing(self, now: float) -> set[str]:
        return {identity for identity, until in self.until.items() if until > now}


@settings(deadline=None)
@given(st.lists(st.tuples(SEEN, st.integers(1, 400), st.booleans()), max_size=25))
def test_receiver_has_current_firings_and_ends(steps: list[tuple[dict[str, set[str] | None], int, bool]]) -> None:
    """Whenever it is reachable, whatever changed before."""
    server, now = Server(), 0.0
    claims: dict[str, set[str]] = {}
    for seen, passes, reachable in steps:
        now += passes
        server.update(now, {name: None if ids is None else [alert(id_) for id_ in ids] for name, ids in seen.items()})
        claims = {name: claims.get(name, set()) if ids is None else ids for name, ids in seen.items()}
        fires = {id_ for name in claims if seen[name] is not None for id_ in claims[name]}
        hidden = {id_ for name in claims if seen[name] is None for id_ in claims[name]} - fires
        if reachable:
            sent = server.send(now)
            assert fires <= server.firing(now) <= fires | hidden
            assert not {identity for identity, _ in sent} & hidden


def test_end_is_sent_again_for_fifteen_minutes() -> None:
    """However the wall clock is set meanwhile."""
    server = Server()
    server.update(0.0, {"A": [alert("x")]}, wall=0.0)
    server.send(0.0)
    server.update(10.0, {"A": []}, wall=10.0)
    sent = []
    for now in range(10, 1200, 10):
        server.update(now, {"A": []}, wall=now - 86400)
        sent += [now for one in server.send(now) if one == ("x", 10.0)]
    assert sent == [10, *range(60, 911, 60)]
    assert server.active.alerts == {}


def test_firings_of_one_identity_end_together() -> None:
    server = Server()
    server.update(9.0, {"A": [alert("x", content=b"late", started_at=5.0), alert("x", content=b"early")]})
    assert [*server.active.alerts.values()] == [alert("x", content=b"early")]
    server.update(10.0, {"A": [alert("x", content=b"late", started_at=5.0)]})
    assert [*server.active.alerts.values()] == [alert("x", content=b"late", started_at=5.0)]
    server.update(11.0, {"A": [], "B": [alert("x")]})
    assert server.active.alerts["x"].ended_at is None
    server.update(12.0, {"A": [], "B": []})
    assert server.active.alerts["x"].ended_at == 12.0


def test_limit_keeps_sent_alerts_and_ends_no_firing() -> None:
    server = Server(limit=2)
    server.update(0.0, {"A": [alert("x"), alert("y")]})
    server.send(0.0)
    server.update(1.0, {"A": [alert(identity) for identity in "abxy"]})
    assert (server.active.dropped, server.send(1.0)) == (2, [])
    server.update(2.0, {"A": [alert(identity) for identity in "aby"]})
    assert server.send(2.0) == [("x", 2.0), ("a", None)]
    # An alert that is known again next to one that took its place: one is not sent, none has ended.
    server.update(3.0, {"A": None, "B": [alert("m"), alert("n")]})
    server.send(3.0)
    server.update(4.0, {"A": [alert("a"), alert("y")], "B": [alert("m"), alert("n")]})
    assert {identity for identity, one in server.active.alerts.items() if one.ended_at is not None} == {"x"}
    server.limit = 1
    server.update(70.0, {"A": [alert("a"), alert("y")], "B": [alert("m"), alert("n")]})
    assert [ended for identity, ended in server.send(70.0) if identity != "x"] == [None]


def test_end_is_never_before_start() -> None:
    server = Server()
    server.update(9.0, {"A": [alert("x", started_at=10.0)]})
    server.update(9.5, {})
    assert server.active.alerts["x"].ended_at == 10.0


# What Alertmanager is sent of a firing.


def content(one: ActiveAlert) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(one.content + b"}")
    return found


def test_alert_combines_labels_of_envelope_and_settings() -> None:
    one = active(
        labels={"service": "orders", "order": "{{ row.order_id }}"},
        annotations={"runbook": "https://runbooks.example/{{ alert }}"},
        generator_url="https://orders.example/{{ row.customer }} é?q=a b",
    )
    assert content(one) == {
        "labels": {"alertname": "late", "customer": "Ann", "order": "17", "service": "orders"},
        "annotations": {"summary": "Order 17 of Ann is late", "runbook": "https://runbooks.example/late"},
        "generatorURL": "https://orders.example/Ann%20%C3%A9?q=a+b",
    }
    assert one.started_at == 1_795_242_548.0


def test_alert_always_has_a_name() -> None:
    """That of the setting, or of a label, or of the alert."""
    what = message()
    for alertname, label, expected in (
        ("{{ labels.customer }}Late", "Label", "AnnLate"),
        (None, "Label", "Label"),
        ("{{ '' }}", "", "late"),
        (None, "", "late"),
    ):
        what.envelope["labels"]["alertname"] = label
        one = output("http://x", options={"alertname": alertname}).active(what.envelope, NOW)
        assert content(one)["labels"]["alertname"] == expected


def test_identity_is_the_labels_without_empty_ones() -> None:
    keyed = {"key": "{{ row.order_id }}"}
    assert active("1").identity == active("2").identity == active("1", labels={"empty": "{{ '' }}"}).identity
    assert active("1", labels=keyed).identity != active("2", labels=keyed).identity


@pytest.mark.parametrize(
    ("started_at", "expected"),
    [(1_795_242_548_000, 1_795_242_548.0), (int(NOW * 1000) + 60_000, NOW), (2**64 - 1, NOW), (0, 0.0)],
)
def test_start_in_the_future_becomes_now(started_at: int, expected: float) -> None:
    what = message(started_at=started_at, at=started_at)
    assert output("http://x").active(what.envelope, NOW).started_at == expected


@pytest.mark.parametrize("url", ["ftp://x/y", "{{ row.nothing }}", "http://[::1"])
def test_invalid_generator_url_is_left_out(url: str) -> None:
    assert "generatorURL" not in content(active(generator_url=url))


def test_unusable_certificate_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.am\.tls_ca: there is no file none\.pem"):
        output("https://a", tls_ca="none.pem")
    (tmp_path / "bad.pem").write_text("x")
    with pytest.raises(ConfigError, match=r"channels\.am: the certificates cannot be used: "):
        output("https://a", tls_ca=str(tmp_path / "bad.pem"))

"""What Alertmanager is sent of a firing: labels, annotations, name and start; unusable certificates."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.alertmanager_output import NOW, active, output
from support.messages import message
from tocsin.channels.base import ActiveAlert
from tocsin.errors import ConfigError


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


@pytest.mark.parametrize(
    ("alertname", "labels", "expected"),
    [
        (None, {}, "late"),
        (None, {"alertname": "Label"}, "Label"),
        ("Set", {"alertname": "Label"}, "Set"),
        ("{{ labels.customer }}Late", {}, "AnnLate"),
        ("{{ '' }}", {}, "late"),
    ],
)
def test_alert_always_has_a_name(alertname: str | None, labels: dict[str, str], expected: str) -> None:
    what = message()
    what.envelope["labels"].update(labels)
    one = output("http://x", options={"alertname": alertname}).active(what.envelope, NOW)
    assert content(one)["labels"]["alertname"] == expected


def test_failed_template_shows_its_error() -> None:
    assert content(active(alertname="{{ row.nothing }}"))["labels"]["alertname"].startswith("<error: late: alertname: ")


def test_identity_is_the_labels_without_empty_ones() -> None:
    keyed = {"key": "{{ row.order_id }}"}
    assert active("1").identity == active("2").identity == active("1", labels={"empty": "{{ '' }}"}).identity
    assert active("1", labels=keyed).identity != active("2", labels=keyed).identity


def test_names_become_valid_for_every_alertmanager() -> None:
    what = message()
    what.envelope["labels"] |= {"2nd-label": "x", "é": "y"}
    what.envelope["annotations"] |= {"a.b": "z"}
    found = content(output("http://x").active(what.envelope, NOW))
    assert {"_2nd_label", "_"} <= found["labels"].keys()
    assert "a_b" in found["annotations"]


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

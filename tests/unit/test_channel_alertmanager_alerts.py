"""What Alertmanager is told of a firing: labels, annotations, name and times."""

import json
from typing import Any

import pytest

from support.alertmanager_output import NOW, output, standing
from support.messages import message
from tocsin.channels.base import Standing


def shown(one: Standing) -> dict[str, Any]:
    assert isinstance(one.content, bytes)
    found: dict[str, Any] = json.loads(one.content + b"}")
    return found


def test_an_alert_has_the_labels_and_annotations_of_the_envelope_and_those_that_are_set() -> None:
    one = standing(
        labels={"service": "orders", "order": "{{ row.order_id }}"},
        annotations={"runbook": "https://runbooks.example/{{ alert }}"},
        generator_url="https://orders.example/{{ row.customer }} é?q=a b",
    )
    assert shown(one) == {
        "labels": {"alertname": "late", "customer": "Ann", "order": "17", "service": "orders"},
        "annotations": {
            "summary": "Order 17 of Ann is late",
            "runbook": "https://runbooks.example/late",
        },
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
        (
            "{{ row.nothing }}",
            {},
            "<error: late: alertname: line 1: there is no 'nothing' among order_id, customer, late_by>",
        ),
    ],
)
def test_an_alert_always_has_a_name(alertname: str | None, labels: dict[str, str], expected: str) -> None:
    what = message()
    what.envelope["labels"].update(labels)
    one = output("http://x", options={"alertname": alertname}).standing(what.envelope, NOW)
    assert shown(one)["labels"]["alertname"] == expected


def test_firings_with_the_same_labels_are_one_alert_and_an_empty_label_is_none() -> None:
    assert standing("1").identity == standing("2").identity
    assert (
        standing("1", labels={"key": "{{ row.order_id }}"}).identity
        != standing("2", labels={"key": "{{ row.order_id }}"}).identity
    )
    assert standing(labels={"empty": "{{ '' }}"}).identity == standing().identity


def test_names_become_what_every_alertmanager_takes() -> None:
    what = message()
    what.envelope["labels"] |= {"2nd-label": "x", "é": "y"}
    what.envelope["annotations"] |= {"a.b": "z"}
    found = shown(output("http://x").standing(what.envelope, NOW))
    assert {"_2nd_label", "_"} <= found["labels"].keys()
    assert "a_b" in found["annotations"]


@pytest.mark.parametrize(
    ("started_at", "expected"),
    [(1_795_242_548_000, 1_795_242_548.0), (int(NOW * 1000) + 60_000, NOW), (2**64 - 1, NOW), (0, 0.0)],
)
def test_what_began_in_the_future_by_our_clock_begins_now(started_at: int, expected: float) -> None:
    what = message(started_at=started_at, at=started_at)
    assert output("http://x").standing(what.envelope, NOW).started_at == expected


@pytest.mark.parametrize("url", ["nowhere", "ftp://x/y", "{{ row.nothing }}", "http://[::1", "", "/path"])
def test_what_is_no_address_is_left_out(url: str) -> None:
    assert "generatorURL" not in shown(standing(generator_url=url))

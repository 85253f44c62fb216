"""What `tocsin explain` prints of the keys that can be asked about."""

from tocsin.cli.explain import keys_listed, notification_lines


def test_keys_that_read_alike_have_their_fingerprints() -> None:
    nearest = [
        {"key": {"region": "", "id": "1"}, "fingerprint": "aa", "phase": "firing"},
        {"key": {"region": "", "id": "1"}, "fingerprint": "bb", "phase": None},
        {"key": {"region": "eu", "id": "1"}, "fingerprint": "cc", "phase": "firing"},
    ]
    assert [text for _, text in keys_listed({"verdict": "several", "nearest": nearest})] == [
        "",
        "keys that match",
        "region= id=1  aa  (firing)",
        "region= id=1  bb",
        "region=eu id=1  (firing)",
    ]


def test_recipients_are_in_the_line_of_a_request() -> None:
    request = {"from": "a@example.com", "to": ["b@example.com", "c@example.com"], "parts": [{}], "text": "x" * 99}
    one = {"id": "ab", "kind": "fired", "at": "now", "channel": "mail", "status": "pending", "says": [], "answers": []}
    assert [text for _, text in notification_lines({**one, "request": request})][-1] == (
        "request: from a@example.com, to b@example.com c@example.com"
    )

"""What `tocsin explain` prints of the keys that can be asked about."""

from tocsin.cli.explain import keys_listed


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

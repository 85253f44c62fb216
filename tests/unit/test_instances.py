"""How the parts in which two processes' configurations differ are named."""

import pytest

from tocsin.ledger.postgres.instances import differing

OURS = {"alerts.late": "1", "channels.hook.type": "1", "channels.hook.to": "1", "channels.hook.alerts": "1"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, []),
        ({"channels.hook.to": "2", "channels.hook.alerts": "2"}, ["channels.hook.to"]),
        ({"channels.hook.alerts": "2"}, ["what `notify` sets for channels.hook"]),
        ({"alerts.late": "2", "channels.hook.url": "2"}, ["alerts.late", "channels.hook.url"]),
    ],
)
def test_parts_are_named_as_in_the_file(changed: dict[str, str], named: list[str]) -> None:
    assert differing(OURS | changed, OURS) == named

"""An alert's configuration, bound to the columns of its relation."""

from pathlib import Path

from support.pipelines import COLUMNS, alert_in
from tocsin.firing import Rule
from tocsin.model import Column
from tocsin.pipeline import binding


def test_settings_of_alert_reach_firing_set(tmp_path: Path) -> None:
    alert = alert_in(
        tmp_path, "key: [id], for: 1s, keep_firing_for: 2s, repeat_interval: 3s, ignore: [note], labels: [id]"
    )
    columns = (Column(name="note", oid=25), *COLUMNS)
    assert binding.rule(alert, columns) == Rule(
        alert="late", columns=columns, key=(1,), ignored=frozenset({0}), hold=1000, keep=2000, repeat=3000, edges=True
    )

"""An alert's configuration, bound to the columns of its relation."""

from dataclasses import replace
from pathlib import Path

from support.pipelines import COLUMNS, alert_in
from tocsin.firing import Rule
from tocsin.model import Column
from tocsin.pipeline import binding, resume


def test_settings_of_alert_reach_firing_set(tmp_path: Path) -> None:
    alert = alert_in(
        tmp_path, "key: [id], for: 1s, keep_firing_for: 2s, repeat_interval: 3s, ignore: [note], labels: [id]"
    )
    columns = (Column(name="note", oid=25), *COLUMNS)
    assert binding.rule(alert, columns) == Rule(
        alert="late", columns=columns, key=(1,), ignored=frozenset({0}), hold=1000, keep=2000, repeat=3000, edges=True
    )


def test_another_query_is_another_definition(tmp_path: Path) -> None:
    alert = alert_in(tmp_path)
    queries = ("SELECT 1 AS id", "SELECT 2 AS id")
    subjects = [replace(alert.subject, relation=None, query=query) for query in queries]
    one, two = (resume.definition(replace(alert, subject=subject)) for subject in subjects)
    assert one != two
    assert resume.same_key(one, two)

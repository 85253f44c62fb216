"""Rows as gauges: a scrape shows the current rows, after any history."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tocsin.exposition import Gauges, GaugeSpec, lines
from tocsin.exposition.lines import header, sample_value
from tocsin.firing import FiringSet, Rule
from tocsin.model import Batch, Column, Row

Labels = tuple[tuple[str, str], ...]

SPEC = GaugeSpec(alert="late", metric="late_orders", labels=(("customer", 0), ("city", 1)), value=2)


PAGES = yaml.safe_load((Path(__file__).parent / "golden" / "pages.yaml").read_text(encoding="utf-8"))


def parse_openmetrics(text: str) -> list[Metric]:
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def plain(gauges: Gauges, now: float = 0.0) -> bytes:
    gauges.advance(now)
    return b"".join(block.plain() for block in gauges.blocks())


def served(gauges: Gauges, now: float = 0.0) -> dict[Labels, float]:
    """The series as Prometheus reads them. Fails on a duplicate label set."""
    text = (header(gauges.spec.metric, "") + plain(gauges, now)).decode()
    (family,) = parse_text(text)
    found: dict[Labels, float] = {}
    for sample in family.samples:
        labels = tuple(sorted(sample.labels.items()))
        assert labels not in found, f"{labels} is there twice on the page"
        found[labels] = sample.value
    return found


def put(gauges: Gauges, changes: Mapping[Any, Row | None], now: float = 0.0, *, replace: bool = False) -> None:
    gauges.install(gauges.render(changes, replace=replace), now)


@pytest.mark.parametrize("case", PAGES, ids=lambda case: case["what"])
def test_rows_become_a_page(case: dict[str, Any]) -> None:
    own: dict[str, Any] = {**case.get("gauge", {})}
    own |= {name: tuple(own[name].items()) for name in ("labels", "static_labels") if name in own}
    gauges = Gauges(replace(SPEC, **own))
    put(gauges, {place: tuple(row) for place, row in enumerate(case["rows"])})
    assert plain(gauges).decode() == case["page"]


def test_dropped_series_and_merged_rows_are_counted() -> None:
    gauges = Gauges(replace(SPEC, max_series=2))
    put(gauges, {key: (name, None, "1") for key, name in (("1", "a"), ("2", "b"), ("3", "c"), ("4", "c"))})
    assert (gauges.series, gauges.dropped, gauges.duplicates) == (2, 1, 1)


def test_merged_rows_are_counted_once_when_rendered_again() -> None:
    """All rows are rendered again after a fault of the ledger, a change of columns, or many changes."""
    gauges = Gauges(SPEC)
    rows: dict[str, Row] = {"1": ("a", None, "1"), "2": ("a", None, "1"), "3": ("a", None, "1"), "4": ("b", None, "1")}
    more: dict[str, Row] = {"5": ("a", None, "1"), "6": ("b", None, "1")}
    counted = []
    for all_rows in (rows, rows, rows | more, rows | more):
        put(gauges, all_rows, replace=True)
        counted.append(gauges.duplicates)
    assert counted == [2, 2, 4, 4]


def test_all_rows_are_rendered_for_another_firing_set() -> None:
    """After a restart from the ledger the changes of a batch are not all that differs."""
    gauges = Gauges(SPEC)
    for rows in ([("Acme", None, "5"), ("Globex", None, "1")], [("Initech", None, "2")]):
        columns = tuple(Column(name=name, oid=25) for name in ("customer", "city", "value"))
        firing = FiringSet(Rule(alert="late", columns=columns))
        firing.apply(Batch(updates=[(1, 1, row) for row in rows], frontier=2))
        gauges.install(gauges.update(firing, {}), 0.0)
        assert {labels[0][1] for labels in served(gauges)} == {row[0] for row in rows}
    outcome = firing.apply(Batch(updates=[(3, -1, rows[0])], frontier=4))
    gauges.install(gauges.update(firing, outcome.changes), 0.0)
    assert served(gauges) == {}


def test_change_renders_one_block_again() -> None:
    gauges = Gauges(SPEC)
    put(gauges, {str(place): (f"{place:05}", None, "1") for place in range(5000)})
    gauges.advance(0.0)
    before = gauges.blocks()
    put(gauges, {"17": ("00017", None, "9")})
    after = gauges.blocks()
    assert len(before) > 4
    assert sum(old is not new for old, new in zip(before, after, strict=True)) == 1


def test_invisible_update_renders_nothing() -> None:
    gauges = Gauges(SPEC)
    put(gauges, {"1": ("Acme", "Berlin", "1.0", "first note")})
    before = gauges.blocks()
    put(gauges, {"1": ("Acme", "Berlin", "1", "second note")})
    assert gauges.blocks() == before


ANY_TEXT = st.text() | st.text(alphabet='\\"\n\r\t,={}# \x00\x85\u2028\ud800a', max_size=8)


@given(ANY_TEXT, ANY_TEXT, st.floats())
def test_any_text_and_number_read_back(customer: str, city: str, number: float) -> None:
    gauges = Gauges(SPEC)
    put(gauges, {"1": (customer, city, repr(number))})
    labels = {
        name: text.encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8
        for name, text in (("customer", customer), ("city", city))
        if text
    }
    expected = {tuple(sorted(labels.items())): pytest.approx(number, nan_ok=True, rel=0, abs=0)}
    assert served(gauges) == expected
    page = (header("late_orders", "") + plain(gauges) + b"# EOF\n").decode()
    (family,) = parse_openmetrics(page)
    assert {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples} == expected


@given(st.floats())
def test_value_has_shortest_form_that_reads_back(number: float) -> None:
    text = sample_value(number).decode().rstrip("\n")
    assert float(text) == pytest.approx(number, nan_ok=True, rel=0, abs=0)
    assert len(text) <= len(repr(number)) + 1  # the sign of +Inf


@given(st.text())
def test_any_help_text_stays_on_its_line(help_text: str) -> None:
    page = header("late_orders", help_text).decode() + "late_orders 1\n"
    assert [family.name for family in parse_text(page)] == ["late_orders"]
    assert [family.name for family in parse_openmetrics(page + "# EOF\n")] == ["late_orders"]


# The model: rows in a dictionary, everything else computed from them.


MERGES: Mapping[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "max": max,
    "min": min,
    "first": lambda values: values[0],
}


@dataclass(slots=True)
class Model:
    spec: GaugeSpec
    rows: dict[str, Row] = field(default_factory=dict)
    arrival: dict[str, int] = field(default_factory=dict)
    arrivals: int = 0
    lingering: dict[Labels, float] = field(default_factory=dict)

    def labels(self, row: Row) -> Labels:
        return tuple((name, text) for name, index in self.spec.labels if (text := row[index]))

    def groups(self) -> dict[Labels, list[float]]:
        groups: dict[Labels, list[float]] = {}
        for key in sorted(self.rows, key=lambda key: self.arrival[key]):
            groups.setdefault(self.labels(self.rows[key]), []).append(float(self.rows[key][2] or "nan"))
        return groups

    def change(self, changes: Mapping[str, Row | None], now: float, *, replace: bool) -> None:
        before = set(self.groups())
        if replace:
            self.rows.clear()
        for key, row in changes.items():
            old = self.rows.get(key)
            if row is None:
                self.rows.pop(key, None)
            else:
                if old is None or self.labels(old) != self.labels(row):
                    self.arrivals += 1
                    self.arrival[key] = self.arrivals
                self.rows[key] = row
        after = set(self.groups())
        if self.spec.linger:
            for labels in before - after:
                self.lingering[labels] = now + self.spec.linger
        for labels in after:
            self.lingering.pop(labels, None)

    def page(self, now: float) -> dict[Labels, float]:
        merge = MERGES[self.spec.on_duplicate]
        self.lingering = {labels: due for labels, due in self.lingering.items() if due > now}
        page = dict.fromkeys(self.lingering, 0.0) | {labels: merge(values) for labels, values in self.groups().items()}
        kept = sorted(page, key=self.text)[: self.spec.max_series]
        return {tuple(sorted(labels)): page[labels] for labels in kept}

    def text(self, labels: Labels) -> bytes:
        inside = ",".join(f'{name}="{text}"' for name, text in labels)
        return f"{self.spec.metric}{{{inside}}} ".encode() if labels else f"{self.spec.metric} ".encode()


KEYS = st.sampled_from([f"key-{number}" for number in range(40)])
ROWS = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "e", None]), st.sampled_from(["", "x", "y"]), st.integers(-9, 9).map(str)
)
STEPS = st.lists(
    st.tuples(st.dictionaries(KEYS, ROWS | st.none(), max_size=25), st.booleans(), st.integers(0, 20)), max_size=8
)
SPECS = st.builds(
    replace,
    st.just(SPEC),
    on_duplicate=st.sampled_from(["sum", "max", "min", "first"]),
    max_series=st.sampled_from([1, 4, 1000]),
    linger=st.sampled_from([0.0, 15.0]),
)


@pytest.fixture(scope="class")
def _tiny_blocks() -> Iterator[None]:
    """Blocks so small that few lines split and join them often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_FULL", 4)
        patch.setattr(lines, "_SPARSE", 2)
        yield


@pytest.mark.usefixtures("_tiny_blocks")
class TestModel:
    @given(SPECS, STEPS)
    def test_page_is_the_rows_after_any_changes(
        self, spec: GaugeSpec, steps: list[tuple[dict[str, Row | None], bool, int]]
    ) -> None:
        gauges, model, now = Gauges(spec), Model(spec), 0.0
        for changes, fresh, pause in steps:
            if fresh:
                changes = {key: row for key, row in changes.items() if row is not None}  # noqa: PLW2901
            now += pause
            assert served(gauges, now) == model.page(now)
            put(gauges, changes, now, replace=fresh)
            model.change(changes, now, replace=fresh)
            page = served(gauges, now)
            assert page == model.page(now)
            assert gauges.series == len(page)

    @given(STEPS)
    def test_page_does_not_depend_on_history(self, steps: list[tuple[dict[str, Row | None], bool, int]]) -> None:
        gauges, model = Gauges(SPEC), Model(SPEC)
        for changes, _, _ in steps:
            put(gauges, changes)
            model.change(changes, 0.0, replace=False)
            plain(gauges)
        fresh = Gauges(SPEC)
        put(fresh, model.rows, replace=True)
        assert plain(fresh) == plain(gauges)

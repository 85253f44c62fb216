"""How `tocsin doctor` judges what its checks found out."""

import asyncio
import os
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tocsin.config.loading import load_text
from tocsin.config.parts import digest
from tocsin.doctor import disk, examination, history, outbox, process, rows, servers, topics
from tocsin.doctor.examination import Parts
from tocsin.doctor.findings import Check, Finding, Report, Severity, examine
from tocsin.doctor.history import Input
from tocsin.errors import SourceError, SourceReason
from tocsin.ledger.base import Backlog
from tocsin.web.readers import Readers

NOW = 1_767_323_045.0
VIEW = "materialize.public.late"
CONFIG = load_text(
    "sources: {s: {type: http, token: 0123456789abcdef}}\n"
    "channels: {out: {type: console}}\n"
    "alerts: {late: {source: s, notify: [out]}}\n",
    "tocsin.yaml",
    {},
)


def severity_of(found: Finding, *words: str) -> Severity:
    """The severity of a finding with these words. What is wrong has a fix."""
    text = f"{found.message}; {found.fix}"
    assert all(word in text for word in words), text
    assert bool(found.fix) == (found.severity in (Severity.WARNING, Severity.ERROR)), found
    return found.severity


# Checks.


@pytest.mark.parametrize(("source", "checked"), [("k", True), ("spare", False)])
def test_retention_is_checked_where_topics_are_read(source: str, checked: bool) -> None:
    """A source that no alert uses has no topics to ask about."""
    config = load_text(
        "sources:\n"
        "  k: {type: kafka, bootstrap_servers: [h]}\n"
        "  spare: {type: kafka, bootstrap_servers: [h]}\n"
        "channels: {out: {type: console}}\n"
        "alerts: {late: {source: k, topic: late, notify: [out]}}\n",
        "tocsin.yaml",
        {},
    )
    parts = Parts(sources={}, channels={}, unusable=())
    found = examination.checks(config, parts, downtime=60.0, status=dict, version="")
    assert ((f"sources.{source}", "retention") in [(one.place, one.name) for one in found]) is checked


class Deaf:
    """A source whose server is asked about the names of alerts only."""

    async def verify(self, names: list[str]) -> list[str]:
        return ["no answer"] if names else []


@pytest.mark.parametrize("place", ["sources", "channels"])
async def test_what_no_alert_uses_is_not_said_to_be_right(place: str) -> None:
    channels = "\nchannels: {out: {type: console}, spare: {type: kafka, bootstrap_servers: [h]}}\n"
    config = load_text(
        "sources: {s: {type: http, token: 0123456789abcdef}, spare: {type: http, token: 0123456789abcdef}}"
        f"{channels}alerts: {{late: {{source: s, notify: [out]}}}}\n",
        "tocsin.yaml",
        {},
    )
    parts = Parts(sources={"s": Deaf(), "spare": Deaf()}, channels={}, unusable=())
    [check, *_] = examination.checks(config, parts, downtime=60.0, status=dict, version="")
    found = {(one.place, one.severity): one for one in await check.run()}
    assert (f"{place}.spare", Severity.OK) not in found
    assert "not asked" in found[f"{place}.spare", Severity.SKIPPED].message
    assert "remove it from tocsin.yaml, line" in found[f"{place}.spare", Severity.WARNING].fix
    assert "correct it at the server, or in tocsin.yaml" in found["sources.s", Severity.ERROR].fix


async def test_failure_that_two_checks_met_is_shown_once() -> None:
    async def fails(fix: str) -> list[Finding]:
        return [Report("sources.s", fix).error("a@b: no answer", fix)]

    made = [Check(place="sources.s", name=fix, run=partial(fails, fix)) for fix in ("correct it", "check the way")]
    assert [one.fix for one in await examine(made)] == ["check the way"]


async def test_failing_check_stops_no_other() -> None:
    async def fails() -> list[Finding]:
        raise ZeroDivisionError("a password")

    async def refused() -> list[Finding]:
        raise SourceError("no route", SourceReason.CONNECT, server="a@b")

    async def never() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def works() -> list[Finding]:
        return [Report("last", "check").ok("fine")]

    left: list[list[str]] = []
    made = [
        Check(place=run.__name__, name="check", run=run, limit=0.01 if run is never else 60.0)
        for run in (fails, refused, never, works)
    ]
    found = await examine(made, progress=lambda some: left.append([one.place for one in some]))
    assert [(one.place, one.severity) for one in found] == [
        *((name, Severity.SKIPPED) for name in ("fails", "refused", "never")),
        ("last", Severity.OK),
    ]
    assert "unexpected ZeroDivisionError" in found[0].message
    assert "password" not in found[0].message
    assert [one.message for one in found[1:3]] == ["a@b: no route", "no answer within 0.01 s"]
    assert left[0] == ["fails", "refused", "never", "works"]
    assert left[-2:] == [["never"], []]


# Servers.


@pytest.mark.parametrize(
    ("ahead", "uncertain", "severity"),
    [
        (0.3, 0.1, Severity.OK),
        (4.0, 2.5, Severity.OK),  # the answer took so long that the clocks may be equal
        (-3.0, 0.1, Severity.WARNING),
        (59.0, 0.1, Severity.WARNING),
        (61.0, 0.1, Severity.ERROR),  # beyond max_ahead
        (-61.0, 0.1, Severity.WARNING),
    ],
)
def test_clock_skew_is_judged(ahead: float, uncertain: float, severity: Severity) -> None:
    place = servers.Place(path="sources.mz", settings=cast("Any", None), kind="materialize", max_ahead=60.0)
    assert severity_of(servers.skewed(place, ahead=ahead, uncertain=uncertain)) is severity


def test_slow_commits_are_judged() -> None:
    report = Report("ledger.path", "fsync")
    assert severity_of(servers.slowness(report, 0.004, 0.2, "a fix"), "4.00 ms, at most 200 ms") is Severity.OK
    assert severity_of(servers.slowness(report, 0.1, 0.2, "a fix"), "10 batches a second") is Severity.WARNING


# History in Materialize.


def judged(back: float, *inputs: Input) -> Finding:
    return history.judged(Report("alerts.late", "history"), back, 3600.0, inputs)


def test_history_that_is_too_short_names_the_statement() -> None:
    short = Input(name=VIEW, index=False, kind="MATERIALIZED VIEW", retained=1.0)
    statement = f"ALTER MATERIALIZED VIEW {VIEW} SET (RETAIN HISTORY FOR '1 hour')"
    assert severity_of(judged(1.4, short), "reaches back 1s", statement) is Severity.WARNING


def test_history_that_still_grows_is_enough() -> None:
    young = Input(name=VIEW, index=False, kind="MATERIALIZED VIEW", retained=3600.0)
    assert severity_of(judged(60.0, young), "1m by now") is Severity.OK


def test_index_that_shortens_history_is_named() -> None:
    """The view retains enough, and the subscription reads the index."""
    index = Input(name="materialize.public.late_idx", index=True)
    retains = Input(name=VIEW, index=False, kind="MATERIALIZED VIEW", retained=3600.0)
    words = "DROP INDEX materialize.public.late_idx", "whatever the view retains"
    assert severity_of(judged(2.0, index, retains), *words) is Severity.WARNING


def test_inputs_of_a_plain_view_are_named() -> None:
    table = Input(name="materialize.public.orders", index=False, kind="TABLE", retained=1.0)
    enough = Input(name=VIEW, index=False, kind="MATERIALIZED VIEW", retained=7200.0)
    found = judged(1.0, table, enough)
    words = "ALTER TABLE materialize.public.orders", "put a materialized view with RETAIN HISTORY over them"
    assert severity_of(found, *words) is Severity.WARNING
    assert VIEW not in found.fix


def test_inputs_are_read_from_a_plan() -> None:
    """As a server of v26.39 wrote it."""
    names = "materialize.public.late_i (u2053, compute)", "materialize.public.t (u1, storage)"
    plan = {"sources": [{"name": name} for name in names]}
    assert [*history.read_inputs(plan)] == [("materialize.public.late_i", True), ("materialize.public.t", False)]


# Topics of Kafka.


@pytest.mark.parametrize(
    ("judge", "policy", "hours", "severity", "words"),
    [
        (topics.judged_events, "delete", 168, Severity.OK, "keeps events for 7d"),
        (topics.judged_events, "delete", -1, Severity.OK, "keeps events for ever"),
        (topics.judged_events, "delete", 0.5, Severity.WARNING, "retention.ms=3600000"),
        (topics.judged_events, "compact", 168, Severity.WARNING, "only the latest may arrive"),
        (topics.judged_rows, "compact", 1, Severity.OK, "the latest record of each key"),
        (topics.judged_rows, "delete", -1, Severity.OK, "the latest record of each key"),
        (topics.judged_rows, "compact,delete", 1, Severity.WARNING, "cleanup.policy=compact"),
    ],
)
def test_retention_of_topics_is_judged(judge: Any, policy: str, hours: float, severity: Severity, words: str) -> None:
    milliseconds = round(hours * 3_600_000) if hours > 0 else -1
    found = judge(Report("alerts.late", "retention"), "orders", policy, milliseconds, 3600.0)
    assert severity_of(found, words) is severity


# The ledger's disk.

MOUNTS = [
    "/dev/sda1 / ext4 rw 0 0",
    "tmpfs /run tmpfs rw 0 0",
    "server:/export /srv/tocsin\\040data nfs4 rw 0 0",
    "overlay /srv overlay rw 0 0",
    "fuse /srv/remote fuse.sshfs rw 0 0",
]


@pytest.mark.parametrize(
    ("folder", "kind", "severity"),
    [
        ("/var/lib/tocsin", "ext4", Severity.OK),
        ("/run/tocsin", "tmpfs", Severity.ERROR),
        ("/srv/tocsin data/alerts", "nfs4", Severity.ERROR),
        ("/srv/remote", "fuse.sshfs", Severity.ERROR),
        ("/srv/remoter", "overlay", Severity.WARNING),
    ],
)
def test_file_system_of_the_ledger_is_judged(folder: str, kind: str, severity: Severity) -> None:
    assert disk.file_system(Path(folder), MOUNTS) == kind
    assert severity_of(disk.judged_file_system(kind), kind) is severity


def test_free_space_is_judged_by_the_size_of_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "tocsin.db"
    mebibyte = 1024**2
    assert severity_of(disk.free(path, 1024 * mebibyte, 1000)) is Severity.OK
    assert severity_of(disk.free(path, 1024 * mebibyte, None)) is Severity.OK
    assert severity_of(disk.free(path, 1024 * mebibyte, 0), "no more files") is Severity.ERROR
    assert severity_of(disk.free(path, 500 * mebibyte, 1000), "500.0 MiB free") is Severity.WARNING
    for left in (0, 15 * mebibyte):
        assert severity_of(disk.free(path, left, 1000), "the disk is full") is Severity.ERROR
    with path.open("wb") as file:
        file.truncate(2048 * mebibyte)
    assert severity_of(disk.free(path, 1024 * mebibyte, 1000), "2.0 GiB") is Severity.WARNING


def test_file_system_without_a_number_of_files_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As btrfs, which reports none of none."""
    as_reported = SimpleNamespace(f_files=0, f_favail=0, f_bavail=2**20, f_frsize=2**12)
    monkeypatch.setattr(os, "statvfs", lambda _: as_reported)
    [found] = [one for one in disk.examined(tmp_path / "tocsin.db") if one.check == "free space"]
    assert found.severity is Severity.OK


# The outbox.


def test_dead_letters_and_old_notifications_are_named() -> None:
    backlog = {
        "team": Backlog(pending=0, dead=2),
        "slow": Backlog(pending=3, oldest=NOW - 7200),
        "fresh": Backlog(pending=3, oldest=NOW - 5),
        "gone": Backlog(pending=1, oldest=NOW - 5),
    }
    newest = cast("Any", {"team": SimpleNamespace(reason="rejected", detail="400 Bad Request")})
    found = outbox.judged(backlog, newest, ["team", "slow", "fresh"], NOW)
    assert [(one.place, one.severity) for one in found] == [
        ("channels.gone", Severity.WARNING),
        ("channels.slow", Severity.WARNING),
        ("channels.team", Severity.WARNING),
    ]
    severity_of(found[0], "not configured")
    severity_of(found[1], "3 pending, the oldest for 2h", "tocsin outbox list --pending --channel slow")
    severity_of(found[2], "2 dead letters", "rejected: 400 Bad Request", "tocsin outbox retry --all --channel team")


# Rows that change by themselves.


def test_columns_that_change_by_themselves_are_named() -> None:
    columns = ["id", "customer", "minutes"]
    before = [("1", "Ann", "5.0"), ("2", "Bob", "6.0"), ("3", None, "7.0")]
    after = [("1", "Ann", "5.1"), ("2", "Eve", "6.1"), ("4", "New", "0.0")]
    assert rows.changing(columns, ["id"], columns, before, after) == ["minutes"]
    assert rows.changing(columns, ["id"], ["id", "customer"], before, after) == []  # `ignore: [minutes]`
    assert rows.changing(columns, [], columns, before, after) == columns  # the whole row is the key
    assert rows.changing(columns, ["id"], columns, before, []) == []


# The running process.


def status(**given: Any) -> dict[str, Any]:
    """The status of a healthy process that Prometheus reads."""
    scrape = {"address": "10.0.0.9", "agent": "Prometheus/3.16.0", "count": 9, "first": at(-500), "last": at(-7)}
    return {
        "version": "1.0.0",
        "time": at(0),
        "since": at(-600),
        "reasons": [],
        "warnings": [],
        "alerts": [{"name": "late", "dropped": 0, "gaps": 0}],
        "channels": [],
        "configuration": {"digest": digest(CONFIG), "since": at(-600), "refused": []},
        "scrapes": [scrape],
        **given,
    }


def at(seconds: float) -> str:
    readers = Readers()
    readers.add("", "", NOW + seconds)
    return str(readers.shown()[0]["last"])


def bad(**given: Any) -> list[Finding]:
    return [one for one in process.examined(status(**given), CONFIG, "1.0.0") if one.severity is not Severity.OK]


def test_healthy_process_has_no_finding() -> None:
    assert bad() == []


@pytest.mark.parametrize(
    ("given", "severity", "words"),
    [
        ({"version": "0.9.0"}, Severity.WARNING, "it is version 0.9.0, and 1.0.0 is installed"),
        ({"reasons": ["alert late: no answer"]}, Severity.ERROR, "alert late: no answer"),
        ({"warnings": ["channel team: paused"]}, Severity.WARNING, "channel team: paused"),
        ({"alerts": [{"name": "late", "dropped": 3, "gaps": 0}]}, Severity.WARNING, "max_series is reached"),
        ({"alerts": [{"name": "late", "dropped": 0, "gaps": 1}]}, Severity.WARNING, "1 gap since its start"),
        ({"configuration": {"digest": "0", "since": at(0), "refused": []}}, Severity.WARNING, "another configuration"),
        ({"configuration": {"digest": "0", "since": at(0), "refused": ["a: is required"]}}, Severity.ERROR, "required"),
        ({"certificate_ends": NOW + 86400}, Severity.WARNING, "it ends in 1 days"),
        ({"certificate_ends": NOW - 86400}, Severity.ERROR, "it has ended"),
        ({"scrapes": []}, Severity.WARNING, "no one has read /metrics since its start"),
        ({"scrapes": [], "since": at(-9)}, Severity.SKIPPED, "just started"),
        (
            {"scrapes": [{"address": "::1", "agent": "Prometheus/3.16.0", "last": at(-400)}]},
            Severity.WARNING,
            "no one has read /metrics for 6m40s",
        ),
        (
            {"scrapes": [{"address": "::1", "agent": "curl/8.0", "last": at(-4)}]},
            Severity.WARNING,
            "1 reader of /metrics (curl/8.0 from ::1), the last 4 s ago; none of them says that it is Prometheus",
        ),
    ],
)
def test_status_of_the_process_is_judged(given: dict[str, Any], severity: Severity, words: str) -> None:
    [found] = bad(**given)
    assert severity_of(found, words) is severity


def test_readers_of_metrics_are_counted_and_limited() -> None:
    readers = Readers()
    for second in range(100):
        readers.add("10.0.0.9", "Prometheus/3.16.0", NOW + second)
        readers.add(f"10.1.0.{second}", "x" * 1000, NOW + second)
    shown = readers.shown()
    assert len(shown) == 20
    assert (shown[1]["agent"], shown[1]["count"]) == ("Prometheus/3.16.0", 100)
    assert len(shown[0]["agent"]) == 100


# The documentation.


def test_every_check_is_documented() -> None:
    package = Path(disk.__file__).parent
    code = "".join(file.read_text(encoding="utf-8") for file in package.glob("*.py"))
    names = {*re.findall(r'Report\([^()]*?, "([a-z ]+)"\)', code)}
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    missing = {name for name in names if f"`{name}`" not in page}
    assert {"history", "fsync", "scrapes"} <= names
    assert not missing

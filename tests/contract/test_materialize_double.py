"""The double of Materialize answers as the recorded server did."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from support.materialize import MaterializeDouble
from support.materialize.recordings import load, normalised
from support.materialize.replay import Direction, Player, Script, Stage, StageClock, script

RECORDINGS = Path(__file__).parents[1] / "recordings"
FOLDERS = {"v26.8": RECORDINGS / "materialize", "v26.39": RECORDINGS / "materialize-26.39"}
"""Release -> where its recordings are."""

LEFT_OUT = {
    "v26.8": {
        "copy_binary": "no client of ours uses the binary format: the server went down in it",
        "envelope_upsert": "no client of ours asks for it: the plain envelope has multiplicities, too",
    },
    "v26.39": {
        "too_many_connections": "its client closed before it read; see test_one_connection_too_many_is_refused",
    },
}

ORDERS = [("org", "text"), ("n", "int8"), ("total", "numeric")]
DIMENSIONS = [("org", "text"), ("kind", "text"), ("n", "int8"), ("ok", "int8"), ("at", "timestamptz")]
ACTIVE = [
    ("alert", "text"),
    ("id", "int8"),
    ("organization", "text"),
    ("value", "numeric"),
    ("owner", "text"),
    ("severity", "text"),
]
COLUMNS: dict[str, list[tuple[str, str | int]]] = {
    "late_orders": [*ORDERS],
    "kept": [*ORDERS[:2]],
    "dup": [("k", "text"), ("n", "int4")],
    "risky": [("k", "text"), ("v", "int4")],
    "recent": [("org", "text"), ("n", "int8")],
    "doomed": [("org", "text")],
    "repl": [("org", "text")],
    "dim": [*DIMENSIONS],
    "ty": [(f"c{at}", "text") for at in range(29)],
    "demo.active_alerts": [*ACTIVE],
    "demo.organization_alert": [*ACTIVE[:1], *ACTIVE[2:3], *ACTIVE[5:6], *ACTIVE[4:5], *ACTIVE[3:4]],
}
HOUR = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """How the double is set up for a recording, beyond what the recording itself says.

    Attributes:
        retain: history of the relation, in milliseconds.
        changed_before: the recorded changes had happened when the client came.
        frontier: write frontier when the client comes.
        before: more that had happened by then.
        at_failure: what ends the stream with an error, or refuses the connection.
        at_notice: what is behind a notice in the middle of a stream.
    """

    retain: int = 1000
    changed_before: bool = False
    frontier: int | None = None
    before: Direction | None = None
    at_failure: Direction | None = None
    at_notice: Direction | None = None


def no_relation(stage: Stage) -> None:
    stage.double.drop(stage.the_relation())


def cluster_without_replicas(stage: Stage) -> None:
    stage.double.create_cluster("cc", replicas=0)


def another_cluster(stage: Stage) -> None:
    stage.double.create_cluster("cc")


def recorded_cluster(stage: Stage) -> None:
    stage.double.create_cluster("g_cc")


def recorded_cluster_without_replicas(stage: Stage) -> None:
    stage.double.create_cluster("g_cc", replicas=0)


def drop_recorded_cluster(stage: Stage) -> None:
    stage.double.drop_cluster("g_cc")


def replica_of_recorded_cluster(stage: Stage) -> None:
    stage.double.scale("g_cc", 0)
    stage.apply(stage.changes.pop(0))
    stage.double.scale("g_cc", 1)


def constant_at_its_start(stage: Stage) -> None:
    stage.the_relation().freeze(at=stage.script.as_of)


def denied_to_role(stage: Stage) -> None:
    stage.double.deny("g_bridge", stage.the_relation())


def recorded_id(stage: Stage) -> None:
    stage.the_relation().id = "u82"


def failed_later(stage: Stage) -> None:
    stage.reach(1795991126966)
    stage.the_relation().fail("division by zero", at=1795991126967)
    stage.the_relation().heal(at=1795991130000)


def failed_before(stage: Stage) -> None:
    stage.the_relation().fail("division by zero", at=1795991135300)
    stage.the_relation().heal(at=1795991135320)


def swap_and_drop(stage: Stage) -> None:
    stage.double.create("g_rec_green.v", [("k", "text"), ("n", "int4")])
    stage.double.swap_schemas("g_rec_blue", "g_rec_green")
    stage.double.drop(stage.the_relation())


def fall_behind(stage: Stage) -> None:
    stage.double.fall_behind(stage.the_relation())


def with_password(stage: Stage) -> None:
    stage.double.passwords["g_pw"] = "made-up-1"


def not_yet_hydrated(stage: Stage) -> None:
    stage.the_relation().silent = True


def constant(stage: Stage) -> None:
    stage.the_relation().freeze()


def denied_to_bridge(stage: Stage) -> None:
    stage.double.deny("bridge", stage.the_relation())


def failed_and_healed(stage: Stage) -> None:
    stage.reach(1795242596811)
    stage.the_relation().fail("division by zero", at=1795242596900)
    stage.the_relation().heal(at=1795242600000)


def failed_and_healed_long_ago(stage: Stage) -> None:
    stage.the_relation().fail("division by zero", at=1795242607700)
    stage.the_relation().heal(at=1795242607720)


def division_by_zero(stage: Stage) -> None:
    stage.the_relation().fail("division by zero")


def drop(stage: Stage) -> None:
    stage.double.drop(stage.the_relation())


def replace(stage: Stage) -> None:
    stage.double.replace(stage.the_relation())


def drop_cluster(stage: Stage) -> None:
    stage.double.drop_cluster("cc")


def changed_while_silent_then_replica_back(stage: Stage) -> None:
    stage.double.scale("cc", 0)
    stage.apply(stage.changes.pop(0))
    stage.double.scale("cc", 1)


def alerting_cluster(stage: Stage) -> None:
    stage.double.create_cluster("alerting")


PLAYED: dict[str, dict[str, Scenario]] = {
    "v26.8": {
        "as_of_in_the_future": Scenario(frontier=1795244120700),
        "cluster_dropped": Scenario(before=another_cluster, at_failure=drop_cluster),
        "declare_fetch": Scenario(frontier=1795242499227),
        "demo_active_alerts": Scenario(before=alerting_cluster),
        "demo_organization_alert": Scenario(before=alerting_cluster),
        "describe_by_prepare": Scenario(),
        "fresh_copy": Scenario(),
        "kafka_spike_and_expiry": Scenario(),
        "multiplicity_and_update": Scenario(),
        "no_replica_at_start": Scenario(before=cluster_without_replicas),
        "permission_denied": Scenario(before=denied_to_bridge),
        "replica_lost": Scenario(before=another_cluster, at_notice=changed_while_silent_then_replica_back),
        "resume_as_of_too_old": Scenario(frontier=1795242549500),
        "resume_at_least_immediate": Scenario(frontier=1795242537467),
        "resume_at_least_late": Scenario(frontier=1795242546889),
        "resume_retained": Scenario(retain=HOUR, changed_before=True, frontier=1795242563128),
        "resume_snapshot_at_least_lost": Scenario(frontier=1795244117059),
        "resume_snapshot_at_least_retained": Scenario(retain=HOUR, changed_before=True, frontier=1795244113991),
        "row_error": Scenario(at_failure=division_by_zero),
        "row_error_fresh_after": Scenario(before=failed_and_healed_long_ago, retain=HOUR),
        "row_error_resume_across": Scenario(before=failed_and_healed, retain=HOUR),
        "server_killed": Scenario(),
        "stream": Scenario(),
        "temporal_expiry": Scenario(before=not_yet_hydrated),
        "types_text": Scenario(before=constant),
        "unknown_cluster": Scenario(),
        "view_dropped": Scenario(at_failure=drop),
        "view_missing": Scenario(before=no_relation),
        "view_replaced": Scenario(at_failure=replace),
    },
    "v26.39": {
        "cluster_dropped": Scenario(before=recorded_cluster, at_failure=drop_recorded_cluster),
        "constant_materialized_view": Scenario(before=constant_at_its_start),
        "constant_view": Scenario(before=constant),
        "fell_behind": Scenario(at_failure=fall_behind),
        "fresh_copy": Scenario(),
        "login_password": Scenario(before=with_password),
        "login_password_refused": Scenario(before=with_password),
        "multiplicity_and_update": Scenario(),
        "no_replica_at_start": Scenario(before=recorded_cluster_without_replicas),
        "permission_denied": Scenario(before=denied_to_role),
        "replacement_applied": Scenario(),
        "replica_lost": Scenario(before=recorded_cluster, at_notice=replica_of_recorded_cluster),
        "resume_as_of_too_old": Scenario(before=recorded_id, frontier=1795991034500),
        "resume_lost": Scenario(frontier=1795991035500),
        "resume_retained": Scenario(retain=HOUR, changed_before=True, frontier=1795991053484),
        "row_error": Scenario(at_failure=division_by_zero),
        "row_error_fresh_after": Scenario(before=failed_before, retain=HOUR),
        "row_error_resume_across": Scenario(before=failed_later, retain=HOUR),
        "row_error_without_snapshot": Scenario(at_failure=division_by_zero),
        "schema_swapped": Scenario(at_failure=swap_and_drop),
        "types_text": Scenario(before=constant),
        "unknown_cluster": Scenario(),
        "view_dropped": Scenario(at_failure=drop),
        "view_missing": Scenario(before=no_relation),
        "view_replaced": Scenario(at_failure=replace),
    },
}


def set_up(scenario: Scenario, written: Script, release: str) -> Stage:
    """A double in the state that the recorded server was in."""
    as_of = (
        written.as_of if written.as_of is not None and written.as_of < 2**63 else (scenario.frontier or 1795242500000)
    )
    clock = StageClock(min(as_of, scenario.frontier or as_of) - 30_000)
    double = MaterializeDouble(clock=clock, progress_interval=3600, release=release)
    stage = Stage(double, clock, written, changes=list(written.changes))
    columns = COLUMNS.get(written.relation, [(f"c{at}", "text") for at in range(written.width)])
    stage.relation = double.create(written.relation or "nothing", columns=columns, retain=scenario.retain)
    clock.now = min(as_of, scenario.frontier or as_of) - 400
    if written.snapshot:
        stage.relation.change(written.snapshot)
    if scenario.changed_before:
        for change in written.changes:
            stage.apply(change)
        stage.changes.clear()
    if scenario.before is not None:
        scenario.before(stage)
    stage.reach(scenario.frontier or as_of + 1)
    return stage


@pytest.mark.parametrize(
    ("release", "name"), [(release, name) for release in PLAYED for name in sorted(PLAYED[release])]
)
async def test_the_double_says_what_the_recorded_server_said(release: str, name: str) -> None:
    scenario = PLAYED[release][name]
    recorded = load(FOLDERS[release] / f"{name}.jsonl")
    stage = set_up(scenario, script(recorded), release)
    player = Player(stage, scenario.at_failure, scenario.at_notice)

    async with stage.double:
        said = await player.play(recorded)

    expected = normalised(event for event in recorded if event.conn == 1)
    assert normalised(said)[: len(expected)] == expected
    assert not stage.changes


@pytest.mark.parametrize("release", sorted(FOLDERS))
def test_every_recording_is_played_or_left_out_for_a_reason(release: str) -> None:
    recorded = {path.stem for path in FOLDERS[release].glob("*.jsonl")}

    assert recorded == PLAYED[release].keys() | LEFT_OUT[release].keys()
    assert all(LEFT_OUT[release].values())

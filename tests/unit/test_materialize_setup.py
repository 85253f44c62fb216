"""The runner that brings the SQL into Materialize: what it plans and does, on a server that has nothing, everything or
something else.

`Fake` answers as a live server was seen to.
"""

import itertools

import pytest

from support.materialize.setup import Fake, Run, content, numbers, prepared, set_up, shipped
from tocsin_setup.errors import PlanError, SetupError
from tocsin_setup.plan import Catalog, Found, Outcome, plan
from tocsin_setup.script import Kind, items

# A server that has nothing, and one that has everything.


def test_the_first_run_makes_everything() -> None:
    fake = Fake()
    run = set_up(fake)
    wanted = {item.name for item in shipped() if item.kind.in_schema}
    assert set(fake.objects) == wanted
    assert run.of(Outcome.CREATED) == {*wanted, "alerting", "demo", "tocsin"}
    assert all(one.comment for one in fake.objects.values())
    assert {name for name, one in fake.objects.items() if one.rows} == {"organizations", "auction_alerts"}


def test_the_second_run_touches_nothing() -> None:
    fake = Fake()
    set_up(fake)
    before, fake.log = numbers(fake), []
    run = set_up(fake)
    assert numbers(fake) == before
    assert {statement.split()[0] for statement in fake.log} == {"SET", "GRANT"}
    assert run.of(Outcome.CREATED, Outcome.REPLACED, Outcome.CHANGED, Outcome.SKIPPED) == set()


def test_a_plan_has_no_statement_where_all_is_as_it_should_be() -> None:
    fake = Fake()
    set_up(fake)
    steps = plan(shipped(), fake.catalog("demo"), history=True)
    assert [step.item.kind for step in steps if step.statements] == [Kind.SESSION, *[Kind.GRANT] * 3]
    assert not any(step.marks for step in steps)


@pytest.mark.parametrize("history", [True, False])
def test_a_crash_after_any_statement_is_made_up_for_by_the_next_run(history: bool) -> None:
    whole = Fake(history=history)
    set_up(whole)
    for position in range(len(whole.log)):
        fake = Fake(history=history)
        fake.before = lambda _, fake=fake, position=position: interrupt(len(fake.log) == position)  # type: ignore[misc]
        with pytest.raises(KeyboardInterrupt):
            set_up(fake)
        fake.before = lambda _: None
        set_up(fake)
        assert content(fake) == content(whole), whole.log[position]
        settled = numbers(fake)
        set_up(fake)
        assert numbers(fake) == settled


def interrupt(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


def test_two_at_once_come_to_the_same_wherever_they_meet() -> None:
    whole = Fake()
    set_up(whole)
    for position in range(len(whole.log)):
        fake = Fake()

        def second(_: str, fake: Fake = fake, position: int = position) -> None:
            if len(fake.log) == position:
                fake.before = lambda _: None
                set_up(fake)

        fake.before = second
        set_up(fake)
        assert content(fake) == content(whole), whole.log[position]
        settled = numbers(fake)
        set_up(fake)
        assert numbers(fake) == settled


def test_a_view_that_somebody_is_just_making_is_waited_for() -> None:
    fake = Fake()
    set_up(fake)
    made = fake.objects["organization_alert"]
    comment, made.comment = made.comment, None
    looks = itertools.count()
    look = fake.catalog

    def catalog(schema: str) -> Catalog:
        if next(looks) == 3:
            made.comment = comment
        return look(schema)

    fake.catalog = catalog  # type: ignore[method-assign]
    run = set_up(fake)
    assert run.of(Outcome.REPLACED) == set()


# Changes.


def test_a_changed_window_replaces_the_view_and_those_that_read_it_and_nothing_else() -> None:
    fake = Fake()
    set_up(fake)
    before, fake.log = numbers(fake), []
    run = set_up(fake, deployment_window="5 minutes")
    changed = {name for name, number in numbers(fake).items() if number != before[name]}
    assert changed == run.of(Outcome.REPLACED) == {"dim_deployments", "organization_alert"}
    assert run.outcomes["organization_alert"].why == "reads dim_deployments, which is made anew"
    assert [statement for statement in fake.log if statement.startswith("DROP")] == [
        'DROP MATERIALIZED VIEW IF EXISTS "demo".organization_alert',
        'DROP MATERIALIZED VIEW IF EXISTS "demo".dim_deployments',
    ]


def test_a_view_that_nobody_reads_is_replaced_in_one_step_and_granted_again() -> None:
    fake = Fake()
    set_up(fake)
    fake.log = []
    run = set_up(fake, bid_window="9 minutes")
    assert run.of(Outcome.REPLACED) == {"active_alerts"}
    assert [one for one in fake.log if one.startswith(("CREATE", "DROP"))] == [
        next(item.replaced(history=True) for item in shipped(bid_window="9 minutes") if item.name == "active_alerts")
    ]
    assert fake.log.index(fake.log[-1]) > 0
    assert fake.log[-1].startswith("GRANT SELECT")


def test_a_change_at_the_bottom_replaces_all_above_in_an_order_that_the_server_accepts() -> None:
    fake = Fake()
    set_up(fake)
    run = set_up(fake, future_limit="1 minute")
    above = {"fct_customer_events", "dim_deployments", "organization_alert", "winning_bids", "active_alerts"}
    assert run.of(Outcome.REPLACED) == above | {"customer_events_checked", "winning_bids_checked", "rejected_events"}


def test_layout_and_comments_are_no_change_and_a_new_comment_is_only_set() -> None:
    before = 'CREATE VIEW IF NOT EXISTS :"schema".v AS SELECT 1; COMMENT ON VIEW :"schema".v IS \'one\';'
    after = (
        '-- new\nCREATE VIEW IF NOT EXISTS :"schema".v /* x */ AS\n  SELECT 1;\nCOMMENT ON VIEW :"schema".v IS \'two\';'
    )
    (old,), (new,) = (items([("1.sql", text)], {"schema": "demo"}) for text in (before, after))
    assert old.definition == new.definition
    there = Catalog(objects={"v": Found(kind="view", comment=f"one [definition {old.definition}]")})
    (step,) = plan([new], there, history=True)
    assert (step.outcome, step.statements) == (Outcome.CHANGED, ())
    assert step.marks == f"COMMENT ON VIEW \"demo\".v IS 'two [definition {new.definition}]'"


def test_a_source_that_changed_is_kept_and_told_with_what_to_do() -> None:
    fake = Fake()
    set_up(fake)
    before = numbers(fake)
    run = set_up(fake, broker="elsewhere:9092")
    assert numbers(fake) == before
    assert run.of(Outcome.SKIPPED) == {"broker"}
    assert "DROP it ... CASCADE first" in run.outcomes["broker"].why


def test_rules_that_were_all_removed_do_not_come_back() -> None:
    fake = Fake()
    set_up(fake)
    fake.objects["auction_alerts"].rows = 0
    set_up(fake)
    assert fake.objects["auction_alerts"].rows == 0


def test_what_psql_made_is_taken_over() -> None:
    fake = Fake()
    for item in shipped():
        for statement in (item.create, *item.seeds, *([item.commented(item.comment)] if item.comment else [])):
            fake.run(statement)
    before = numbers(fake)
    run = set_up(fake)
    kept = {item.name for item in shipped() if item.kind.in_schema and not item.kind.replaceable}
    assert {name for name, number in numbers(fake).items() if number == before[name]} == kept
    assert run.of(Outcome.CHANGED) == kept
    settled = numbers(fake)
    set_up(fake)
    assert numbers(fake) == settled


def test_something_else_with_the_name_of_a_view_is_an_error_that_says_so() -> None:
    there = Catalog(objects={"winning_bids": Found(kind="table")})
    with pytest.raises(PlanError, match=r"view demo.winning_bids cannot be made: a table has its name.*--schema"):
        plan(shipped(), there, history=True)


def test_a_view_of_somebody_else_is_not_dropped_along() -> None:
    fake = Fake()
    set_up(fake)
    fake.run('CREATE VIEW "demo".mine AS SELECT * FROM "demo".dim_deployments')
    with pytest.raises(SetupError, match=r"006_alerts.sql:\d+: .*dim_deployments.*\"mine\". Drop what reads it"):
        set_up(fake, deployment_window="5 minutes")
    assert "mine" in fake.objects


# --check.


def test_check_tells_what_a_run_would_do_and_does_nothing() -> None:
    fake, run = Fake(), Run()
    assert prepared(fake, run).check()
    assert fake.log == []
    done = set_up(fake)
    assert run.of(Outcome.CREATED) == done.of(Outcome.CREATED)
    assert not prepared(fake, Run()).check()
    again = Run()
    assert prepared(fake, again, bid_window="9 minutes").check()
    assert again.of(Outcome.REPLACED) == {"active_alerts"}

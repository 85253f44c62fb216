"""One loop of a level output after another, as the configuration changes."""

from support.levels import DOWN, OK, Stage
from support.messages import transition


async def test_what_went_while_nobody_looked_is_told_as_ended_by_the_next_loop(stage: Stage) -> None:
    stage.fires("1", "2")
    await stage.advance(0.3)
    await stage.close()
    stage.firing["late"] = [transition(key="2")]
    stage.start(stage.loop)
    await stage.quiet()
    assert stage.level.told("a") == stage.level.told("b") == [["1", "2"], ["-1", "2"]]
    assert stage.level.closed == 1


async def test_what_had_just_ended_is_told_by_the_next_loop(stage: Stage) -> None:
    stage.level.answers["a"] = DOWN
    stage.fires("1")
    await stage.advance(0.3)
    stage.fires()
    await stage.advance(0.3)
    await stage.close()
    stage.level.answers["a"] = OK
    stage.start(stage.loop)
    await stage.quiet()
    assert stage.level.told("a")[-1] == stage.level.told("b")[-1] == ["-1"]


async def test_an_alert_that_no_longer_notifies_the_output_ends_and_another_waits_until_it_is_known(
    stage: Stage,
) -> None:
    stage.fires("1")
    stage.fires("2", "3", alert="early")
    await stage.advance(0.3)
    await stage.close()
    stage.firing = {"early": None}
    stage.start(stage.loop)
    await stage.advance(0.3)
    assert stage.level.told("a") == [["1", "2", "3"], ["-1"]]
    stage.firing["early"] = [transition(key="3", alert="early")]
    stage.loop.changed("early", news=False)
    await stage.advance(0.3)
    assert stage.level.told("a")[2:] == [["-2", "3"]]


async def test_an_output_that_is_no_longer_configured_tells_that_all_is_over(stage: Stage) -> None:
    stage.fires("1")
    stage.fires("2", alert="early")
    await stage.advance(0.3)
    stage.firing["early"] = None
    stage.loop.changed("early")
    await stage.advance(0.3)
    await stage.loop.retired()
    assert stage.level.told("a") == stage.level.told("b") == [["1", "2"], ["-2", "-1"]]
    stage.fires("1", "4")
    await stage.advance(0.3)
    assert stage.level.told("a")[2:] == []


async def test_a_receiver_that_is_down_does_not_hold_up_an_output_that_is_no_longer_configured(stage: Stage) -> None:
    stage.level.answers["a"] = DOWN
    stage.fires("1")
    await stage.advance(0.3)
    await stage.loop.retired()
    assert stage.level.told("b") == [["1"], ["-1"]]

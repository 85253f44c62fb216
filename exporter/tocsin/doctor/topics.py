"""How long the topics of Kafka keep their records."""

from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.doctor.findings import Finding, Report
from tocsin.settings import duration_text


async def kept(
    name: str, settings: Any, topics: Mapping[str, str], downtime: float, *, rows: bool
) -> Sequence[Finding]:
    """Check the retention of topics. `topics`: name -> place of the alert. `rows`: whether they hold the latest value
    of each key, or else events."""
    from tocsin.sources.kafka.consuming import consumer_thread
    from tocsin.sources.kafka.inspection import kept as asked

    async with consumer_thread(name, settings, {}) as consumer:
        answers = await asked(consumer, topics)
    judge = judged_rows if rows else judged_events
    found = []
    for topic, answer in answers.items():
        report = Report(topics[topic], "retention")
        if isinstance(answer, str):
            found.append(report.skipped(answer))
        else:
            found.append(judge(report, topic, *answer, downtime))
    return found


def judged_events(report: Report, topic: str, policy: str, milliseconds: int, downtime: float) -> Finding:
    """Judge how long events are kept, against the longest downtime in seconds."""
    change = f"raise retention.ms of {topic}: kafka-configs.sh --alter --entity-type topics --entity-name {topic}"
    if "compact" in policy:
        words = f"{topic} is compacted: of events with the same key that wait, only the latest may arrive"
        return report.warning(words, "use cleanup.policy=delete for events, or `state: true` for rows")
    if milliseconds < 0 or milliseconds >= downtime * 1000:
        return report.ok(f"{topic} keeps events {_length(milliseconds)}, for a downtime of {duration_text(downtime)}")
    words = f"{topic} keeps events {_length(milliseconds)}: after a longer downtime the older ones are lost"
    return report.warning(words, f"{change} --add-config retention.ms={round(downtime * 1000)}")


def judged_rows(report: Report, topic: str, policy: str, milliseconds: int, downtime: float) -> Finding:
    """Judge whether the rows of a topic are kept: it is read from its beginning at each start."""
    del downtime
    if "delete" not in policy or milliseconds < 0:
        return report.ok(f"{topic} keeps the latest record of each key")
    after = duration_text(milliseconds / 1000)
    words = f"{topic} deletes records after {after}: at the next start their rows are missing, and resolve"
    return report.warning(words, f"set cleanup.policy=compact for {topic}")


def _length(milliseconds: int) -> str:
    return "for ever" if milliseconds < 0 else f"for {duration_text(milliseconds / 1000)}"

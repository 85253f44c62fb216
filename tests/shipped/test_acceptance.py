"""The acceptance list names an existing test for each promise."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LIST = (TESTS / "acceptance.md").read_text(encoding="utf-8")
SECTIONS = {
    "Alerts from a stream": 11,
    "Notifications from a stream": 18,
    "Handlers of events in PostgreSQL": 12,
    "Alerts from a queue": 12,
    "Webhooks of a stream": 11,
    "Faults not repeated": 37,
    "The port": 14,
    "A ledger in PostgreSQL": 18,
    "Tests of alerts": 11,
    "Silences": 11,
    "The bad night": 7,
    "Explanations": 11,
    "The status page": 10,
    "Documentation and Python": 8,
    "A first configuration": 11,
}
"""Section -> number of promises."""


def test_every_promise_names_a_test() -> None:
    assert re.findall(r"^## (.*)$", LIST, re.MULTILINE) == [*SECTIONS]
    for title, promises in SECTIONS.items():
        section = LIST.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        lines = re.findall(r"^(\d+)\. .+: (?:`\S+\.py::test_\w+`(?:, )?)+$", section, re.MULTILINE)
        assert lines == [str(number) for number in range(1, promises + 1)], title


@pytest.mark.parametrize("named", sorted({*re.findall(r"`(\S+::\w+)`", LIST)}))
def test_test_named_by_promise_exists(named: str) -> None:
    file, name = named.split("::")
    assert re.search(rf"^(?:async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)

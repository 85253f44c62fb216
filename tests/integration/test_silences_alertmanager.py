"""Matchers of silences against a real Alertmanager: the same texts select the same alerts."""

import random
from itertools import product
from pathlib import Path

from support.alertmanager import alertmanager
from support.tocsin import write
from tocsin.silences import Matchers
from tocsin.silences.matchers import read

CONFIG = {"route": {"receiver": "none"}, "receivers": [{"name": "none"}]}
VALUES = ("", "Ann", "Anna", "Bob", 'a "b"', "x\ny", "größe", "1.5", "Ann|Bob", "a,b=c")
TEXTS: tuple[str, ...] = (
    '""',
    "Ann",
    "Ann.*",
    '"Ann|Bob"',
    '"a \\"b\\""',
    '"x\\ny"',
    '"x.y"',
    '"(?s)x.y"',
    "größe",
    '"gr\\u00f6.+"',
)
TEXTS += ('"\\\\pL+"', "1.5", '".+"', '".*"', '"a)|(b"', '"(?i)ann"', '"[^AB].*"', '"a,b=c"')


async def test_matchers_select_what_alertmanager_selects(tmp_path: Path) -> None:
    chance = random.Random(7)
    everything = [
        {"alertname": f"n{number}", "customer": first, "größe": second}
        for number, (first, second) in enumerate(product(VALUES, VALUES[:5]))
    ]
    matchers = [
        f"{name}{operator}{text}"
        for name in ("customer", '"größe"')
        for operator in ("=", "!=", "=~", "!~")
        for text in TEXTS
    ]
    file = write(tmp_path / "alertmanager.yml", CONFIG)
    async with alertmanager(tmp_path, file, generation="newest") as server:
        for labels in everything:
            await server.report({name: text for name, text in labels.items() if text}, summary="s")
        assert len(await server.alerts()) == len(everything)
        for one in matchers:
            chosen = [one] if chance.random() < 0.7 else [one, chance.choice(matchers)]
            async with server.client.get(
                f"{server.url}/api/v2/alerts", params=[("filter", each) for each in chosen]
            ) as response:
                assert response.status == 200, (chosen, await response.text())
                selected = {alert["labels"]["alertname"] for alert in await response.json()}
            ours = Matchers(tuple(read("{" + ", ".join(chosen) + ",}")))
            assert {labels["alertname"] for labels in everything if ours.match(labels)} == selected, chosen

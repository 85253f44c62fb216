"""The files of `unit/web_file_cases.yaml` as exporter-toolkit itself sees them, by `promtool check web-config`."""

from pathlib import Path

import yaml

from support.monitoring_programs import program
from support.port import Authority, hashed
from support.prometheus import run
from tocsin.config.web_file import parse_web_file

CASES = yaml.safe_load((Path(__file__).parents[1] / "unit" / "web_file_cases.yaml").read_text(encoding="utf-8"))
STRICTER = {
    "a rate limit that refuses everything",
    "an interval without a unit, which Go takes for nanoseconds",
    "TLS settings without a certificate",
    "versions that OpenSSL refuses",
    "versions in the wrong order",
    "certificates that anyone can make",
    "certificates without a CA",
    "names in certificates that are not verified",
    "a certificate twice",
    "a second document, which the toolkit ignores",
}
"""What exporter-toolkit accepts, and Tocsin refuses."""


async def test_toolkit_accepts_every_file_that_tocsin_accepts(tmp_path: Path) -> None:
    """Version 0.20. Older ones do not know `rate_limit`."""
    authority = Authority(tmp_path)
    for name, file in (*authority.server().items(), ("client_ca_file", authority.file.name)):
        (tmp_path / {"cert_file": "c", "key_file": "k", "client_ca_file": "ca"}[name]).write_bytes(
            (tmp_path / file).read_bytes()
        )
    accepted, refused = {True: set[str](), False: set[str]()}, {True: set[str](), False: set[str]()}
    for case in CASES:
        text = case["file"].replace("HASH", hashed("x"))
        (tmp_path / "web.yml").write_text(text, encoding="utf-8")
        status, _ = await run(program("promtool", "newest"), "check", "web-config", tmp_path / "web.yml")
        (refused if parse_web_file(text, "web.yml").problems else accepted)[status == 0].add(case["what"])
    assert accepted[False] == set()
    assert refused[True] == STRICTER

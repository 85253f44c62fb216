"""The configuration that a valid `tocsin.yaml` becomes."""
# ruff: noqa: E501 - a case of a table is one line, whatever is in it

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from support.config import in_effect, load_text
from tocsin.config import ChannelConfig, SourceConfig, load
from tocsin.config.document import parse
from tocsin.errors import ConfigError
from tocsin.settings import duration_text, seconds

SECRETS = ("hunter2", "s3cret-token", "file-secret", "user:pass")
WHOLE = """
ledger: {path: state.db, history: 1d}
web: {listen: "[::1]:9000", admin: yes}
log: {level: WARNING, format: json, output: stdout}
x-common: &common
  source: mz
  labels: [organization, severity]
sources:
  mz: {type: materialize, host: db.example, user: tocsin, password: hunter2, cluster: alerting, options: {search_path: a}}
  pg: {type: postgres, dsn: "postgresql://user:pass@[::1]/shop"}
channels:
  people: {type: webhook, url: "https://user:pass@example.com/hook", headers: {X-Authorization: Bearer s3cret-token}}
  out: {type: console}
alerts:
  spike:
    <<: *common
    relation: demo.organization_alert
    static_labels: {team: platform, tier: 1}
    value: deployment_cnt
    for: 1m
    annotations: {summary: "{{ labels.organization }}"}
    notify: [people, {channel: out, format: json}]
  bare: {source: pg, query: SELECT 1 AS a}
  silent: {<<: *common, relation: v, key: [organization], labels: {org: organization}, gauges: false, notify: [out]}
"""


CASES = yaml.safe_load((Path(__file__).parent / "golden" / "effective.yaml").read_text(encoding="utf-8"))


def _places(node: yaml.Node | None) -> Iterator[tuple[int, int]]:
    """Where the scalars that are no keys begin and end."""
    if isinstance(node, yaml.ScalarNode):
        yield node.start_mark.index, node.end_mark.index
    elif node is not None:
        for inner in node.value:
            yield from _places(inner[1] if isinstance(inner, tuple) else inner)


PLACES = [*_places(yaml.compose(WHOLE, Loader=yaml.BaseLoader))]


@pytest.mark.parametrize("case", CASES["files"], ids=lambda case: case["what"])
def test_configuration_in_effect(case: dict[str, Any], tmp_path: Path) -> None:
    made = load_text(tmp_path, case.get("config", WHOLE), **case.get("environ", {}))
    assert {path: in_effect(made, path) for path in case["effective"]} == case["effective"]


def test_route_options_override_channel_options(tmp_path: Path) -> None:
    """A secret and the file that holds it are one setting."""
    (tmp_path / "urls").write_text("json://of-the-file\n")
    text = WHOLE.replace("notify: [people, {", f"notify: [{{channel: chat, urls_file: {tmp_path}/urls}}, {{")
    text = text.replace("{type: console}", "{type: console, format: text}\n  chat: {type: apprise, urls: [json://h]}")
    channels = load_text(tmp_path, text).channels
    assert {name: one.format for name, one in channels["out"].routes.items()} == {"spike": "json", "silent": "text"}
    assert [url.get_secret_value() for url in channels["chat"].routes["spike"].urls] == ["json://of-the-file"]


def test_alerts_come_from_alert_files(tmp_path: Path) -> None:
    (tmp_path / "alerts.d").mkdir()
    (tmp_path / "alerts.d/b.yaml").write_text("b: {source: a, relation: '${VIEW}'}\n")
    (tmp_path / "alerts.d/a.yaml").write_text("# none yet\n")
    text = "sources: {a: {type: postgres, host: h, user: u}}\nalert_files: [alerts.d/b.yaml, alerts.d/*.yaml]\n"
    assert load_text(tmp_path, text, VIEW="v").alerts["b"].subject.relation == "v"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("NO", "NO"), ("on", "on"), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("0b1", "0b1"), ("1_000", "1_000"),
        ('"\\ud83c\\udf55"', "🍕"), ("true", True), ("False", False), ("tRUE", "tRUE"), ("~", None), ("null", None), ("", None), ("'null'", "null"),
        ("12", 12), ("-3", -3), ("0o17", 15), ("0x1F", 31), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), (".inf", float("inf")),
        ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(written: str, value: object) -> None:
    document = parse(f"a: {written}\n", "f", {})
    assert document.data == {"a": value}
    assert not document.problems


def test_aliases_of_aliases_are_limited() -> None:
    layers = "".join(f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 10)}]\n" for i in range(9))
    document = parse("l0: &l0 [x]\n" + layers, "f", {})
    assert [problem.code for problem in document.problems] == ["too_many_values"]


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("file-secret\n")
    text = WHOLE.replace("password: hunter2", f"password_file: {tmp_path}/pw").replace("severity}", "hunter2}")
    config = load_text(tmp_path, text.replace("level: WARNING", "level: info"))
    entries: list[SourceConfig | ChannelConfig] = [*config.sources.values(), *config.channels.values()]
    shown = [config, config.redacted(), *entries, *(entry.settings for entry in entries)]
    text = "".join(f"{part} {part!r}" for part in shown)
    assert not [secret for secret in SECRETS if secret in text]
    assert config.sources["mz"].settings.password.get_secret_value() == "file-secret"


def test_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"\xef\xbb\xbfhunter2\r\n")
    text = WHOLE.replace("password: hunter2", f"password_file: {tmp_path}/pw")
    assert load_text(tmp_path, text).sources["mz"].settings.password.get_secret_value() == "hunter2"


def test_misplaced_secret_is_not_in_problem(tmp_path: Path) -> None:
    found = []
    for start, end in PLACES:
        try:
            load_text(tmp_path, WHOLE[:start] + '"${SECRET}"' + WHOLE[end:], SECRET="hunter3 {{ x")
        except ConfigError as error:
            found.append(str(error))
    assert len(found) > len(PLACES) / 2
    assert not [text for text in found if "hunter3" in text]


def test_redacted_dump_is_a_file_without_secrets(tmp_path: Path) -> None:
    """Also where they are inside other text."""
    (tmp_path / "pw").write_text("file-secret")
    text = WHOLE.replace("{{ labels.organization }}", "see https://me:pw@example.com/x and Bearer s3cret-token")
    dump = load_text(tmp_path, text.replace("password: hunter2", f"password_file: {tmp_path}/pw")).redacted()
    assert yaml.safe_load(yaml.safe_dump(dump)) == dump
    assert dump["sources"]["mz"]["password_file"] == f"{tmp_path}/pw"
    assert dump["sources"]["mz"].keys().isdisjoint({"password", "dsn"})
    assert dump["alerts"]["spike"]["annotations"]["summary"] == "see https://<secret>@example.com/x and <secret>"


@given(st.integers(min_value=0, max_value=10**10))
def test_durations_read_back_as_they_are_shown(milliseconds: int) -> None:
    assert round(seconds(duration_text(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize("text", ["30", "", "1.5s", "-1s", "1m1h", "1s1s", "5 m", "1M"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        seconds(text)
    assert caught.value.type == "duration"


_leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    st.sampled_from(["a", "5m", "${A}", "out", "*", "\ud800", "h\0", "[", "http://x", "demo.v", "{{ x }}", "{% if"]),
)
_trees = st.recursive(
    _leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_leaves, inner, max_size=3))
)
_WORDS = (
    "sources channels alerts a type console url labels notify key for 5m 1e400 listen null true 0x ${A} ${B:-} ${ $${"
)
_MARKS = "{}[]:,-&*!|>'\"%@`#?~\n\t \0\ufeff"
_tokens = st.sampled_from([*_WORDS.split(), *_MARKS, "<<", "\n  ", "\\ud800", "!!str", "&x ", "*x", "---", "..."])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), tree=_trees, text=st.none() | st.lists(_tokens, max_size=40).map("".join))
def test_loading_raises_nothing_but_config_error(
    tmp_path: Path, place: tuple[int, int], tree: object, text: str | None
) -> None:
    """Whatever is at the place of one value, and whatever the whole text is."""
    file = tmp_path / "fuzz.yaml"
    whole = f"{WHOLE[: place[0]]}{json.dumps(tree)}{WHOLE[place[1] :]}" if text is None else text
    file.write_bytes(whole.encode("utf-8", "surrogatepass"))
    try:
        load(file, {"A": "1", "B": "x\ny"})
    except ConfigError as error:
        str(error).encode()

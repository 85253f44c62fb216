"""docker-compose.yml, alone and with docker-compose.ha.yml, without starting them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.monitoring_programs import program
from support.prometheus import run
from support.scripts import ROOT, script
from tocsin import cli
from tocsin.config import load
from tocsin_producer import cli as producer


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """As Compose merges two files."""
    found = dict(base)
    for key, value in more.items():
        old = found.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            found[key] = _merged(old, value)
        elif isinstance(old, list) and key in ("ports", "volumes"):
            found[key] = old + value
        else:
            found[key] = value
    return found


COMPOSE_FILE, HA_FILE = ROOT / "docker-compose.yml", ROOT / "docker-compose.ha.yml"
TEXT, HA_TEXT = (file.read_text(encoding="utf-8") for file in (COMPOSE_FILE, HA_FILE))
CONFIG = (ROOT / "compose/tocsin.yaml").read_text(encoding="utf-8")
ALONE: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
WHOLE = _merged(yaml.safe_load(TEXT), yaml.safe_load(HA_TEXT))
"""Both files."""
SERVICES: dict[str, dict[str, Any]] = WHOLE["services"]
VOLUMES: dict[str, Any] = WHOLE["volumes"]
ONE_SHOT = {"setup", "novu-secrets", "novu-bootstrap"}
OF_THE_PROFILE = {name for name, service in SERVICES.items() if service.get("profiles") == ["novu"]}
CORE = ALONE.keys() - OF_THE_PROFILE

_VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|(?<!IDEMPOTENCY_)KEY")

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_pulled_images_are_pinned() -> None:
    for service in SERVICES.values():
        assert _own(service) or re.search(r":v?\d+(\.\d+)+$", service["image"]), service["image"]


def test_alertmanager_has_its_security_fixes() -> None:
    """Those of release 0.35.0."""
    version = SERVICES["alertmanager"]["image"].rpartition(":v")[2]
    assert [int(part) for part in version.split(".")] >= [0, 35, 0]


@pytest.mark.parametrize("name", ["alertmanager", "prometheus"])
async def test_program_knows_the_flags_of_its_command(name: str) -> None:
    _, shown = await run(program(name, "newest"), "--help")
    flags = {text.split("=")[0] for text in SERVICES[name]["command"]}
    assert "--dispatch.start-delay" in flags or name != "alertmanager"
    assert flags <= {*re.findall(r"--[a-z.-]+", shown)}


def test_ports_are_distinct_settings_of_the_loopback_address() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    for port in ports:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port), port
    assert len({_defaults(port).rpartition(":")[0] for port in ports}) == len(ports)


@each_service
def test_service_has_a_health_check_and_restarts(name: str) -> None:
    service = SERVICES[name]
    check = service["healthcheck"]
    if name in ONE_SHOT:
        assert check == {"disable": True}
        assert service["restart"] == "no" or service["restart"].startswith("on-failure")
        waiting = [(other.get("depends_on") or {}).get(name, {}).get("condition") for other in SERVICES.values()]
        assert "service_completed_successfully" in waiting
        return
    assert service["restart"] == "unless-stopped"
    if "test" not in check:
        assert "HEALTHCHECK" in (ROOT / service["build"]["dockerfile"]).read_text()
    else:
        assert check["test"][0] in ("CMD", "CMD-SHELL")


@each_service
def test_service_is_limited_and_unprivileged(name: str) -> None:
    service = SERVICES[name]
    assert _bytes(service["mem_limit"]) > 0
    assert service["security_opt"] == ["no-new-privileges:true"]
    if _own(service):
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_default_stack_fits_into_4_gib() -> None:
    assert sum(_bytes(SERVICES[name]["mem_limit"]) for name in CORE) <= 4 * 2**30


@each_service
def test_service_waits_for_existing_services(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert how["condition"] == expected
        if other in OF_THE_PROFILE and name not in OF_THE_PROFILE:
            assert how["required"] is False, "without the profile it does not exist"


@each_service
def test_mounts_exist_and_are_folders(name: str) -> None:
    """A file that is mounted alone stays the old one when an editor replaces it."""
    for source, read_only in _mounts(SERVICES[name]):
        if source.startswith("."):
            assert (ROOT / source).is_dir() or source == "./compose/inbox-key", source
            assert (ROOT / source).exists(), source
            assert read_only, f"{source} belongs to the repository"
        elif not source.startswith("/"):
            assert source in VOLUMES


def test_env_example_has_every_variable_with_its_default() -> None:
    found = [found for text in (TEXT, HA_TEXT, CONFIG) for found in _VARIABLE.finditer(_without_comments(text))]
    used = {each["name"]: each["default"] or "" for each in found}
    assert len({(each["name"], each["default"] or "") for each in found}) == len(used)
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert re.findall(r"^[^#\n]", example, re.MULTILINE) == [], "copying it sets nothing"
    shown = dict(re.findall(r"^#(\w+)=(.*)$", example, re.MULTILINE))
    assert shown.pop("COMPOSE_PROFILES") == ""  # Compose's own
    assert shown == used
    for block in example.split("\n\n"):
        assert block.startswith("# ") or not re.search(r"^#\w+=", block, re.MULTILINE), f"unexplained: {block}"


def test_no_secret_is_committed() -> None:
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if _SECRET.search(variable) and not variable.endswith(("_PATH", "_FILE")):
                # `none` is for a required value that is not used.
                assert value in ("", "none", "true") or re.fullmatch(r"\$\{\w+:-\}", value), f"{name}: {variable}"


@pytest.mark.parametrize("novu", ["", "https://eu.api.novu.co"])
def test_configuration_of_compose_is_valid(novu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = ALONE["exporter"]["environment"]
    assert {found["name"] for found in _VARIABLE.finditer(_without_comments(CONFIG))} == environment.keys()
    monkeypatch.setenv("NOVU_URL", novu)
    key = str(ROOT / "compose/inbox-key")
    file = tmp_path / "tocsin.yaml"
    text = CONFIG.replace("/run/secrets/novu-api-key", key)
    file.write_text(text, encoding="utf-8")
    assert cli.main(["check", "--config", str(file)]) == 0


def test_bootstrap_creates_the_workflows_of_the_configuration() -> None:
    bootstrap = script("novu/bootstrap.py")
    alerts = yaml.safe_load(CONFIG)["alerts"]
    routes = [route for alert in alerts.values() for route in alert["notify"] if isinstance(route, dict)]
    named = {route.get(key) for route in routes for key in ("workflow", "resolved_workflow")} - {None}
    assert named == bootstrap.WORKFLOWS.keys()
    people = {person for route in routes for person in route.get("recipients", []) if isinstance(person, str)}
    rules = (ROOT / "materialize/003_rules.sql").read_text(encoding="utf-8")
    owners = set(re.findall(r"^ +\('[A-Z]', '([\w-]+)', ", rules, re.MULTILINE))
    assert owners
    assert people | owners == set(bootstrap.SUBSCRIBERS)
    for route in routes:
        if route.get("on_resolve") == "cancel":
            delays = [step for step in bootstrap.WORKFLOWS[route["workflow"]] if step["type"] == "delay"]
            assert [f"{step['controlValues']['amount']}s" for step in delays] == [route["cancel_within"]]


@pytest.mark.parametrize(
    ("service", "prefix", "command"),
    [
        ("setup", "TOCSIN_SETUP_", ["materialize/setup.py"]),
        ("producer", "TOCSIN_PRODUCER_", ["-m", "tocsin_producer"]),
    ],
)
def test_variables_are_options_of_their_command(service: str, prefix: str, command: list[str]) -> None:
    shown = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for variable in SERVICES[service]["environment"]:
        assert variable.startswith(prefix)
        assert f"--{variable.removeprefix(prefix).lower().replace('_', '-')} " in shown.stdout, variable


def test_producer_accepts_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {name: _defaults(str(value)) for name, value in SERVICES["producer"]["environment"].items()}
    assert producer.main(["--dry-run", "--limit", "3"], environ) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_page_of_the_stack_names_services_and_ports() -> None:
    page = (ROOT / "docs/stack.md").read_text(encoding="utf-8")
    ports = {_defaults(port).split(":")[1] for service in ALONE.values() for port in service.get("ports", [])}
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)", page)) <= ports
    assert {name for name in CORE if f"`{name}`" in page} == {*CORE}


def test_exporters_of_two_have_the_same_settings() -> None:
    first, second = SERVICES["exporter"], SERVICES["exporter-2"]
    assert first["environment"] == second["environment"]
    assert first["environment"].keys() == ALONE["exporter"]["environment"].keys()
    assert first["healthcheck"]["test"] == second["healthcheck"]["test"], "one that waits is not ready, and healthy"
    for key in ("image", "read_only", "cap_drop", "tmpfs", "mem_limit", "stop_grace_period", "security_opt", "restart"):
        assert first[key] == second[key], key
    assert [one for one in first["volumes"] if one != "ledger:/var/lib/tocsin"] == second["volumes"]


@pytest.mark.parametrize("url", ["", SERVICES["exporter"]["environment"]["TOCSIN_LEDGER_URL"]], ids=["file", "server"])
def test_variable_chooses_the_ledger(url: str) -> None:
    environ = {"TOCSIN_LEDGER_URL": url, "NOVU_API_KEY_PATH": str(ROOT / "compose/inbox-key")}
    ledger = load(ROOT / "compose/tocsin.yaml", environ).ledger
    assert (ledger.server() is None) == (not url)
    dockerfile = (ROOT / SERVICES["exporter"]["build"]["dockerfile"]).read_text()
    [folder] = re.findall(r"^WORKDIR (.*)$", dockerfile.rpartition("\nFROM ")[2], re.MULTILINE)
    assert f"ledger:{folder}" in SERVICES["exporter"]["volumes"], "the file is in the volume"
    assert ledger.path == "tocsin.db"


def test_prometheus_scrapes_both_exporters() -> None:
    [tocsin] = (job for job in _yaml("prometheus/prometheus.yml")["scrape_configs"] if job["job_name"] == "tocsin")
    [folder] = (volume.split(":")[:2] for volume in SERVICES["prometheus"]["volumes"] if "targets" in volume)
    assert tocsin["file_sd_configs"] == [{"files": [f"{folder[1]}/*.yml"]}]
    [file] = (ROOT / folder[0]).glob("*.yml")
    targets = [one for group in [*tocsin["static_configs"], *_yaml(file)] for one in group["targets"]]
    assert targets == ["exporter:8627", "exporter-2:8627"]


@pytest.mark.parametrize("files", [[COMPOSE_FILE], [COMPOSE_FILE, HA_FILE]], ids=["one", "two"])
@pytest.mark.parametrize("profile", [[], ["--profile", "novu"]], ids=["default", "novu"])
def test_compose_accepts_the_file(files: list[Path], profile: list[str], tmp_path: Path) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    nothing = tmp_path / "env"
    nothing.touch()
    named = [part for file in files for part in ("--file", str(file))]
    command = ["docker", "compose", *named, "--env-file", str(nothing), *profile, "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _own(service: Mapping[str, Any]) -> bool:
    """Whether its image is built here."""
    return "build" in service or service["image"].endswith(":local")


def _yaml(path: str | Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def _mounts(service: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Sources, and whether they are mounted read-only."""
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, _, rest = volume.partition(":")
            yield source, rest.endswith(":ro")
        else:
            yield _defaults(volume["source"]), volume.get("read_only", False)


def _defaults(text: str) -> str:
    return _VARIABLE.sub(lambda found: found["default"] or "", text)


def _without_comments(text: str) -> str:
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


def _bytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mg])", _defaults(text)).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 2**20, "g": 2**30}[unit]

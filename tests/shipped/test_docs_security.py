"""docs/security.md, with real certificates: its two files are valid, and Prometheus understands its part."""

from pathlib import Path

import pytest
import yaml

from support.monitoring_programs import Generation, each_generation, program
from support.pages import DOCS, blocks
from support.port import ADMIN_TOKEN, TOKEN, Authority
from support.prometheus import run
from support.tocsin import command

PAGE = DOCS / "security.md"
ALERT = {
    "sources": {"shop": {"type": "postgres", "host": "db", "user": "tocsin"}},
    "alerts": {"late": {"source": "shop", "relation": "late_orders"}},
}


@pytest.fixture
def written(tmp_path: Path) -> dict[str, str]:
    """The files of the page, in a folder where everything exists that they name."""
    tocsin, web, prometheus = blocks(PAGE, "yaml")
    for name, token in (("grafana-token", TOKEN), ("deploy-token", ADMIN_TOKEN)):
        (tmp_path / name).write_text(f"{token}\n")
    tls = Authority(tmp_path).server()
    (tmp_path / tls["cert_file"]).rename(tmp_path / "server.pem")
    (tmp_path / tls["key_file"]).rename(tmp_path / "server-key.pem")
    (tmp_path / "ca.pem").rename(tmp_path / "clients-ca.pem")
    (tmp_path / "web.yml").write_text(web)
    config = yaml.safe_load(tocsin.replace("/run/secrets", str(tmp_path)))
    config["web"]["config_file"] = str(tmp_path / config["web"]["config_file"])
    (tmp_path / "tocsin.yaml").write_text(yaml.safe_dump({**ALERT, **config}))
    return {"web": web, "prometheus": prometheus}


@pytest.mark.parametrize("commented", [False, True], ids=["as it is", "with what is commented out"])
async def test_files_of_the_page_are_valid(tmp_path: Path, written: dict[str, str], commented: bool) -> None:
    if commented:
        text = (
            written["web"].replace("\n  # ", "\n  ").replace("\n# ", "\n").replace("web.yml; paths", "# web.yml; paths")
        )
        (tmp_path / "web.yml").write_text(text)
        assert "RequireAndVerifyClientCert" in str(yaml.safe_load(text))
    status, output, errors = await command(tmp_path, "check", "-c", "tocsin.yaml")
    assert (status, errors) == (0, "")
    assert output.startswith("the configuration is valid")


@each_generation
async def test_prometheus_understands_its_part(tmp_path: Path, written: dict[str, str], generation: Generation) -> None:
    (tmp_path / "clients-ca.pem").rename(tmp_path / "ca.pem")
    (tmp_path / "tocsin-password").write_text("x")
    text = written["prometheus"].replace("/run/secrets", str(tmp_path))
    (tmp_path / "prometheus.yml").write_text(text)
    status, output = await run(program("promtool", generation), "check", "config", tmp_path / "prometheus.yml")
    assert status == 0, output

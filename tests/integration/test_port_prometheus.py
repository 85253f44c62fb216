"""A real Prometheus scrapes the port over TLS, with each kind of login that its configuration has."""

import time
from pathlib import Path
from typing import Any

from support.monitoring_programs import Generation, each_generation
from support.port import TOKEN, Authority, Listening, hashed, listening
from support.prometheus import Prometheus, prometheus
from support.waiting import until_some
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page


def page() -> Page:
    shown = Page(Metrics("1.2.3"))
    gauges = Gauges(GaugeSpec(alert="late", metric="late_orders", labels=(("customer", 0),)))
    gauges.install(gauges.render({"1": ("Acme",)}), time.time())
    shown.add(gauges)
    return shown


def job(port: Listening, name: str, authority: Authority, **login: Any) -> dict[str, Any]:
    tls = {"ca_file": str(authority.file), **login.pop("tls", {})}
    target = port.url.removeprefix("https://")
    return {
        "job_name": name,
        "scheme": "https",
        "tls_config": tls,
        "static_configs": [{"targets": [target]}],
        **login,
    }


def configuration(*jobs: dict[str, Any]) -> dict[str, Any]:
    return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": list(jobs)}


async def until_up(running: Prometheus, expected: dict[str, str]) -> None:
    """Wait until each job is up ("1") or not ("0")."""

    async def found() -> bool:
        up = {one["metric"]["job"]: one["value"][1] for one in await running.query("up")}
        assert up == expected
        return True

    await until_some(found, "the state of each job")


@each_generation
async def test_prometheus_scrapes_with_password_or_token(tmp_path: Path, generation: Generation) -> None:
    """Also after another certificate and password were put in while both run."""
    authority = Authority(tmp_path)
    (tmp_path / "password").write_text("scraping")
    file = {
        "tls_server_config": authority.server(),
        "basic_auth_users": {"prometheus": hashed("scraping")},
    }
    tokens = {"grafana": {"token": TOKEN}}
    async with listening(tmp_path, file, page=page(), tokens=tokens) as port:
        jobs = configuration(
            job(
                port,
                "password",
                authority,
                basic_auth={"username": "prometheus", "password_file": str(tmp_path / "password")},
            ),
            job(port, "token", authority, authorization={"credentials": TOKEN}),
            job(port, "wrong", authority, basic_auth={"username": "prometheus", "password": "guess"}),
            job(port, "none", authority),
        )
        async with prometheus(tmp_path, jobs, generation) as running:
            await until_up(running, {"password": "1", "token": "1", "wrong": "0", "none": "0"})
            shown = await running.query("late_orders")
            assert {one["metric"]["job"] for one in shown} == {"password", "token"}
            port.write({**file, "basic_auth_users": {"prometheus": hashed("renewed")}})
            await until_up(running, {"password": "0", "token": "1", "wrong": "0", "none": "0"})
            (tmp_path / "password").write_text("renewed")
            authority.server()
            await until_up(running, {"password": "1", "token": "1", "wrong": "0", "none": "0"})


@each_generation
async def test_prometheus_scrapes_with_client_certificate(tmp_path: Path, generation: Generation) -> None:
    authority = Authority(tmp_path)
    client = str(authority.client("prometheus.example.com"))
    tls = {
        **authority.server(),
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_ca_file": authority.file.name,
        "client_allowed_sans": ["prometheus.example.com"],
    }
    async with listening(tmp_path, {"tls_server_config": tls}, page=page()) as port:
        jobs = configuration(
            job(port, "certificate", authority, tls={"cert_file": client, "key_file": client}),
            job(port, "none", authority),
        )
        async with prometheus(tmp_path, jobs, generation) as running:
            await until_up(running, {"certificate": "1", "none": "0"})

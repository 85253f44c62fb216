"""The port, over real connections: metrics, probes and the page."""

import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from support.web import FakeProcess, Start, starting


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
async def start(process: FakeProcess) -> AsyncIterator[Start]:
    async with starting(process) as begin:
        yield begin


# Prometheus and probes.


async def test_metrics_use_the_requested_format(start: Start) -> None:
    client = await start()
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    text = await response.text()
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert 'late_orders{customer="Acme"} 1\n' in text
    assert text.endswith("# EOF\n")


async def test_compressed_metrics_have_a_length(start: Start) -> None:
    client = await start()
    async with ClientSession(auto_decompress=False) as session:
        response = await session.get(client.make_url("/metrics"), headers={"Accept-Encoding": "gzip"})
        body = await response.read()
    assert response.headers["Content-Encoding"] == "gzip"
    assert int(response.headers["Content-Length"]) == len(body)
    assert body.startswith(b"\x1f\x8b")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/", "/api/v1/status", "/api/v1/transitions"])
async def test_head_answers_without_a_body(start: Start, path: str) -> None:
    client = await start()
    response = await client.head(path)
    assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/-/healthy"])
async def test_healthy_although_not_ready(start: Start, process: FakeProcess, path: str) -> None:
    process.reasons = ["alert lost: the view is gone"]
    client = await start()
    assert (await client.get(path)).status == 200


@pytest.mark.parametrize("path", ["/readyz", "/-/ready"])
async def test_readyz_lists_the_reasons(start: Start, process: FakeProcess, path: str) -> None:
    client = await start()
    assert (await client.get(path)).status == 200
    process.reasons = ["alert lost: the view is gone", "ledger: the disk is full"]
    response = await client.get(path)
    assert response.status == 503
    assert await response.text() == "alert lost: the view is gone\nledger: the disk is full\n"


async def test_readyz_lists_warnings_when_ready(start: Start, process: FakeProcess) -> None:
    """A receiver that refuses everything is no reason to restart Tocsin, and must be seen."""
    process.notes = ["channel hook: refusing: not_found: 404"]
    response = await (await start()).get("/readyz")
    assert response.status == 200
    assert await response.text() == "Tocsin is ready.\nchannel hook: refusing: not_found: 404\n"


# The page.


async def test_every_response_has_security_headers(start: Start) -> None:
    client = await start()
    for path in ("/", "/static/page.js", "/api/v1/status", "/metrics", "/nothing", "/api/v1/nothing"):
        headers = (await client.get(path)).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


async def test_page_loads_nothing_from_other_hosts(start: Start) -> None:
    client = await start()
    page = await (await client.get("/")).text()
    own = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {"static/page.js", "static/page.css", "static/icon.svg"} <= set(own)
    for path in own:
        response = await client.get(f"/{path.removeprefix('./')}")
        assert response.status == 200, path
        if response.content_type in {"text/css", "text/javascript", "text/html"}:
            assert "//" not in re.sub(r"(?m)^\s*//.*$|\s// .*$", "", await response.text()), (
                f"{path} names another server"
            )


async def test_page_has_no_inline_script_or_style(start: Start) -> None:
    """The content security policy would refuse them."""
    client = await start()
    page = await (await client.get("/")).text()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page)


async def test_script_never_creates_markup_from_text(start: Start) -> None:
    client = await start()
    script = await (await client.get("/static/page.js")).text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)

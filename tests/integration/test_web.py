"""The port, over real connections: metrics, probes, the page, and changes."""

import re
from importlib.resources import files

import pytest
from aiohttp import ClientSession

from support.web import DEAD, PENDING, FakeProcess, Start, error

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


async def test_head_answers_without_a_body(start: Start) -> None:
    client = await start()
    for path in ("/metrics", "/healthz", "/readyz", "/", "/api/v1/status", "/api/v1/transitions"):
        response = await client.head(path)
        assert (response.status, await response.read()) == (200, b""), path


@pytest.mark.parametrize("path", ["/readyz", "/-/ready"])
async def test_readyz_lists_the_reasons(start: Start, process: FakeProcess, path: str) -> None:
    client = await start()
    assert (await client.get(path)).status == 200
    process.reasons = ["alert lost: the view is gone", "ledger: the disk is full"]
    response = await client.get(path)
    assert response.status == 503
    assert await response.text() == "alert lost: the view is gone\nledger: the disk is full\n"
    for healthy in ("/healthz", "/-/healthy"):
        assert (await client.get(healthy)).status == 200


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
            namespace = '"http://www.w3.org/2000/svg"'
            text = (await response.text()).replace(namespace, "")
            assert "//" not in re.sub(r"(?m)^\s*//.*$|\s// .*$", "", text), f"{path} names another server"


async def test_page_has_no_inline_script_and_makes_no_markup(start: Start) -> None:
    """The content security policy would refuse the one, and text from rows must not become the other."""
    client = await start()
    page = await (await client.get("/")).text()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page)
    scripts = [path.name for path in files("tocsin.web").joinpath("static").iterdir() if path.name.endswith(".js")]
    assert "page.js" in scripts
    script = "".join([await (await client.get(f"/static/{name}")).text() for name in scripts])
    assert "import" in script
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


# Changes.

CHANGES = ["/-/reload", f"/api/v1/notifications/{DEAD.id}/retry", f"/api/v1/notifications/{DEAD.id}/drop"]


@pytest.mark.parametrize("path", CHANGES)
async def test_changes_are_refused_without_admin(start: Start, process: FakeProcess, path: str) -> None:
    client = await start()
    response = await client.post(path)
    assert response.status == 403
    assert "web: {admin: true}" in await response.text()
    assert (process.reloads, len(process.outbox.records)) == (0, 2)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (CHANGES[0], {"Origin": "https://elsewhere.example"}),
        (CHANGES[1], {"Origin": "null"}),
        (CHANGES[2], {"Sec-Fetch-Site": "cross-site"}),
    ],
    ids=["other origin", "opaque origin", "other site"],
)
async def test_changes_from_other_sites_are_refused(
    start: Start, process: FakeProcess, path: str, headers: dict[str, str]
) -> None:
    client = await start(admin=True)
    assert (await client.post(path, headers=headers)).status == 403
    assert (process.reloads, len(process.outbox.records)) == (0, 2)


async def test_reload_works_or_lists_the_problems(start: Start, process: FakeProcess) -> None:
    client = await start(admin=True)
    behind_proxy = {"Origin": "https://tocsin.example", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/-/reload", headers=behind_proxy)).status == 200
    process.problems = ["tocsin.yaml:3: alerts.late.key: no such column"]
    response = await client.post("/-/reload")
    assert response.status == 500
    assert "tocsin.yaml:3: alerts.late.key: no such column\n" in await response.text()
    assert process.reloads == 2
    response = await client.get("/-/reload")
    assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_retry_of_dead_and_drop_of_pending(start: Start, process: FakeProcess) -> None:
    client = await start(admin=True)
    retried = await client.post(f"/api/v1/notifications/{DEAD.id}/retry")
    assert await retried.json() == {"retried": [DEAD.id]}
    refused = await client.post(f"/api/v1/notifications/{PENDING.id}/retry")
    assert refused.status == 409
    assert "neither dead nor dropped" in await error(refused)
    assert (await client.post(f"/api/v1/notifications/{PENDING.id}/drop")).status == 200
    missing = await client.post(f"/api/v1/notifications/{DEAD.id}/drop")
    assert missing.status == 404
    assert DEAD.id in await error(missing)
    assert process.outbox.records == []

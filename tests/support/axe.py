"""axe-core, the checks of accessibility that browsers run, fetched from npm once."""

import hashlib
import tarfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from support.browser import Tab
from support.downloads import cached, run

_VERSION = "4.14.1"
_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
"""As npm names it in `dist.integrity`."""


def _fetch(new: Path, _: Path) -> None:
    packed = new / run("npm", "pack", "--silent", f"axe-core@{_VERSION}", cwd=new).split()[-1]
    content = packed.read_bytes()
    assert b64encode(hashlib.sha512(content).digest()).decode() == _SHA512, "npm sent another axe-core"
    with tarfile.open(packed) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        (new / "axe.min.js").write_bytes(script.read())
    packed.unlink()


def axe() -> str:
    """The script. Skips the test where it cannot be had."""
    return (cached(f"axe-core-{_VERSION}", _fetch, "npm") / "axe.min.js").read_text(encoding="utf-8")


async def violations(tab: Tab, script: str) -> list[str]:
    """What is wrong with the page as it is shown: rule, element and reason. Best practices count too."""
    if not await tab.run("Boolean(window.axe)"):
        await tab.run(f"{script};0")
    found: list[dict[str, Any]] = await tab.run("axe.run().then((result) => result.violations)")
    return [f"{one['id']}: {node['html'][:120]}: {node['failureSummary']}" for one in found for node in one["nodes"]]

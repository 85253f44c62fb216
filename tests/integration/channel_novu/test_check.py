"""`tocsin check --online` against Novu."""

from pathlib import Path

from support.novu import API_KEY, WORKFLOW, fake_novu
from support.prometheus import free_port
from support.tocsin import command, write
from tocsin_demo.inbox.inbox import Settings
from tocsin_demo.inbox.model import Step


async def test_check_online_names_what_novu_would_not_deliver(tmp_path: Path) -> None:
    """A workflow without steps, and an e-mail step without a provider; a good one is not named."""
    async with fake_novu(Settings(api_key=API_KEY, providers=frozenset({"in_app"}))) as server:
        server.add_empty_workflow("empty")
        server.add_workflow("mails", Step(type="email", name="Mail"))
        novu = {"type": "novu", "url": server.url, "api_key": API_KEY, "recipients": ["ann"], "workflow": WORKFLOW}
        alert = {"source": "shop", "relation": "late", "labels": ["customer"]}
        config = {
            "sources": {"shop": {"type": "postgres", "dsn": f"postgresql://x@127.0.0.1:{free_port()}/x"}},
            "channels": {"people": novu},
            "alerts": {
                f"late_{number}": {**alert, "notify": [{"channel": "people", "workflow": name}]}
                for number, name in enumerate(("empty", "mails", WORKFLOW))
            },
        }
        file = write(tmp_path / "tocsin.yaml", config)
        status, _, errors = await command(tmp_path, "check", "--online", "--config", str(file))
    assert status == 1
    assert "channels.people: the workflow 'empty' has no steps" in errors
    assert "channels.people: step 'Mail' of the workflow 'mails': MISSING_INTEGRATION" in errors
    assert f"'{WORKFLOW}'" not in errors

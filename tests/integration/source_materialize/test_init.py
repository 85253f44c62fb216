"""What `tocsin init` asks a Materialize, here its double."""

import pytest

from support.materialize import MaterializeDouble, ServerError
from support.materialize.protocol import Result, column
from tocsin.errors import SourceError, SourceReason
from tocsin.init.server import inventory
from tocsin.sources.settings import PostgresConfig


async def test_slow_catalog_asks_for_a_name() -> None:
    """The replica of the catalog may take minutes. A view that is named is not looked up there."""
    answers = {"SELECT version()": "PostgreSQL 9.5 on x86_64 (Materialize v26.39.0)", "SHOW cluster": "quickstart"}

    def answer(statement: str) -> Result | None:
        if "mz_objects" in statement:
            raise ServerError("57014", "canceling statement due to statement timeout")
        if (text := answers.get(statement)) is not None:
            return Result(tag="SELECT 1", columns=[column("one", "text")], rows=[(text,)])
        return None

    async with MaterializeDouble() as double:
        double.answer = answer
        with pytest.raises(SourceError, match="no answer within 60 s; name the view") as caught:
            await inventory(PostgresConfig.model_validate({"dsn": double.dsn}), [])
        assert caught.value.reason is SourceReason.STALLED

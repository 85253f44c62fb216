"""The files of SQL as the runner reads them."""

from pathlib import Path

import pytest

from tocsin_setup.errors import ScriptError
from tocsin_setup.script import items, load, variables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;", "1.sql:1: no place for a statement that begins SELECT 1"),
        ('\n\nCREATE SCHEMA IF NOT EXISTS :"schema"', "1.sql:3: a statement without a semicolon"),
        ('CREATE SCHEMA IF NOT EXISTS :"schema"\n\\echo', "1.sql:2: a line for psql inside a statement"),
        ('CREATE SCHEMA IF NOT EXISTS :"schema";', "1.sql:1: schema .* has no COMMENT"),
        (
            'CREATE VIEW IF NOT EXISTS :"schema".v AS SELECT * FROM :"schema".w;',
            "view demo.v uses w, which is not there",
        ),
        ('CREATE VIEW :"schema".v AS SELECT 1;', "CREATE VIEW without IF NOT EXISTS"),
        ('CREATE ROLE IF NOT EXISTS :"schema";', "CREATE ROLE with IF NOT EXISTS"),
        ("CREATE VIEW IF NOT EXISTS v AS SELECT 1;", 'a name must be :"schema". and a word in small letters'),
        ('CREATE VIEW IF NOT EXISTS :"schema".V AS SELECT 1;', "a word in small letters"),
        ('CREATE SCHEMA IF NOT EXISTS :"other";', ':"other" is not in variables.psql'),
        ("CREATE FUNCTION f();", "no such kind of object: FUNCTION"),
        ("COMMENT ON VIEW :\"schema\".v IS 'x';", "speaks of view v, which is not there yet"),
        ("SET cluster = 'x;", "1.sql:1: a quote without its end"),
    ],
)
def test_a_file_that_makes_no_sense_is_an_error_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ScriptError, match=message):
        items([("1.sql", text)], {"schema": "demo"})


def test_semicolons_quotes_and_variables_in_literals_and_comments_are_none() -> None:
    text = """
    -- it's; :"nothing"
    CREATE VIEW IF NOT EXISTS :"schema".v AS SELECT 'a;''b :''x'' --' AS ":'y'", 1::int /* ; ' */;
    COMMENT ON VIEW :"schema".v IS 'it''s; fine';
    """
    (item,) = items([("1.sql", text)], {"schema": "s"})
    assert item.create == """CREATE VIEW IF NOT EXISTS "s".v AS SELECT 'a;''b :''x'' --' AS ":'y'", 1::int"""
    assert item.comment == "it's; fine"
    assert item.commented(item.comment).endswith("IS 'it''s; fine'")


def test_a_directory_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="has no numbered SQL files"):
        load(tmp_path, {})
    with pytest.raises(ScriptError, match=r"variables.psql: cannot be read"):
        variables(tmp_path)
